//! Rebuilds the image when its linker script changes, which Cargo does not see.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
}
