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
    // As the tests are, which are not in the package that users build: see `src/instances.rs`. With the
    // default features, since that is how the whole suite is built; fewer tests are built faster without.
    let feature = |name: &str| env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
    let default = feature("FAST_KERNELS") && feature("RAYON") && !feature("SERDE");
    if level == Ok("1") && default && Path::new("tests").is_dir() {
        println!("cargo::rustc-cfg=instances");
    }
}
