//! Turns the programs of the guide, each with the output that is pasted below it, into modules of
//! the test `guide.rs`.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// Links the library that BLAS names, or OpenBLAS.
fn link_blas() {
    println!("cargo::rerun-if-env-changed=BLAS");
    let library = env::var("BLAS").unwrap_or("openblas".to_owned());
    println!("cargo::rustc-link-lib={library}");
}

/// The blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    // Every second fence ends a block.
    let parts = page.split("\n```").skip(1).step_by(2);
    parts.filter_map(|part| part.split_once('\n')).collect()
}

fn main() {
    println!("cargo::rustc-check-cfg=cfg(optimized)");
    if env::var("OPT_LEVEL").is_ok_and(|level| level != "0") {
        println!("cargo::rustc-cfg=optimized");
    }
    if env::var_os("CARGO_FEATURE_BLAS").is_some() {
        link_blas();
    }
    let guide = Path::new("../docs/guide");
    println!("cargo::rerun-if-changed={}", guide.display());
    let mut pages: Vec<_> = fs::read_dir(guide)
        .expect("the guide is there")
        .map(|entry| entry.expect("the guide can be listed").path())
        .filter(|path| path.extension().is_some_and(|own| own == "md"))
        .collect();
    pages.sort();
    let mut modules = String::new();
    for path in pages {
        let page = fs::read_to_string(&path).expect("a page is text");
        let name = path
            .file_stem()
            .expect("a page has a name")
            .to_string_lossy();
        // Between a program and its output there may be the command that runs it.
        let mut blocks = blocks(&page);
        blocks.retain(|block| block.0 != "sh");
        let pairs = blocks.windows(2).enumerate();
        for (number, pair) in pairs.filter(|(_, pair)| pair[1].0 == "text") {
            let [(language, program), (_, output)] = pair else {
                unreachable!("windows of two")
            };
            if language.starts_with("rust") {
                write!(
                    modules,
                    "#[allow(clippy::all)]\nmod {name}_{number} {{\n{program}\n\
                     #[test]\nfn prints_what_is_pasted() {{\n\
                     super::check(main, {output:?});\n}}\n}}\n"
                )
                .expect("a string takes text");
            }
        }
    }
    let folder = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&folder).join("guide.rs"), modules).expect("the folder can be written to");
}
