//! Links the library that BLAS names, or OpenBLAS.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BLAS");
    if env::var_os("CARGO_FEATURE_BLAS").is_some() {
        let library = env::var("BLAS").unwrap_or("openblas".to_owned());
        println!("cargo::rustc-link-lib={library}");
    }
}
