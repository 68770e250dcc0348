//! Tells the crate how it is compiled.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(unoptimized, instances)");
    let level = env::var("OPT_LEVEL");
    let level = level.as_deref();
    // As in a plain debug build of a program that depends on the crate. Kernels written for the
    // vectoriser are then slower than std's functions, which are always optimised.
    if level == Ok("0") {
        println!("cargo::rustc-cfg=unoptimized");
    }
    // As the tests are, which are not in the package that users build: see `src/instances.rs`.
    if level == Ok("1") && Path::new("tests").is_dir() {
        println!("cargo::rustc-cfg=instances");
    }
}
