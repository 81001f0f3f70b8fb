//! Links the process as a static ELF at its own addresses, with the host's tool chain.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/link.ld");
    println!("cargo:rerun-if-changed={script}");
    for argument in ["-nostartfiles", "-static", "-no-pie", "-Wl,--build-id=none", &format!("-Wl,-T,{script}")] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
