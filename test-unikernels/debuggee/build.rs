//! Links the binary as a guest.

fn main() {
    guest_bindings_build::link();
}
