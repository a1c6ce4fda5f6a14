//! Gives the shared library its soname: programs link to the interface, not to a file.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libtlspool.so.0");
}
