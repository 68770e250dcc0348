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
    // Only where the tests are present, which the package that users build does not contain: see
    // `src/instances.rs`. Only with the features of the whole suite and of the examples; a build of fewer
    // programs is faster without it.
    let feature = |name: &str| env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
    let default = feature("FAST_KERNELS") && feature("RAYON");
    let default = default && !feature("BLAS");
    if level == Ok("1") && default && Path::new("tests").is_dir() {
        println!("cargo::rustc-cfg=instances");
    }
}
