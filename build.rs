//! Tells the crate whether it is compiled without optimisation, as in a plain debug build of a
//! program that depends on it. Kernels written for the vectoriser are then slower than std's
//! functions, which are always optimised.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(unoptimized)");
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level == "0") {
        println!("cargo::rustc-cfg=unoptimized");
    }
}
