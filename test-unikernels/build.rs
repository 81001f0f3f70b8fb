//! Links the binaries as guests.

fn main() {
    guest_bindings_build::link();
}
