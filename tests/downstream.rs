//! A crate of a user's own builds and passes its tests against the package as it would be
//! published: nothing that users need is missing from it.
//!
//! Needs the crates that were downloaded to build these tests, `cargo` and `tar`; no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the command starts");
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{command:?}:\n{}\n{}", text[0], text[1]);
    text.concat()
}

/// Cargo as a user would call it: what the outer run has set for this crate does not apply.
fn cargo(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(directory);
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTDOCFLAGS"] {
        command.env_remove(variable);
    }
    command
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_name() == "target" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// An empty folder.
fn fresh(path: PathBuf) -> PathBuf {
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_crate_of_ones_own_works_with_the_package() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // Outside the target directory's own work, kept from run to run so that dependencies are
    // built once.
    let build = Path::new(env!("CARGO_TARGET_TMPDIR")).join("downstream-build");
    let place = fresh(Path::new(env!("CARGO_TARGET_TMPDIR")).join("downstream"));

    let arguments = "package -p layerwise --no-verify --allow-dirty --offline";
    let target = build.join("package");
    run(cargo(root)
        .args(arguments.split(' '))
        .env("CARGO_TARGET_DIR", &target));
    let id = run(cargo(root).args(["pkgid", "-p", "layerwise"]));
    let version = id.trim().rsplit(['#', '@']).next().unwrap();
    let name = &format!("layerwise-{version}");
    let archive = target.join("package").join(format!("{name}.crate"));
    // With new dates: those of the archive never change, and cargo would not see new sources.
    run(Command::new("tar")
        .arg("-xmzf")
        .arg(&archive)
        .arg("-C")
        .arg(&place));
    let package = place.join(name);
    assert!(package.join("src/lib.rs").is_file());

    let user = place.join("user");
    copy(&root.join("tests/downstream"), &user);
    let manifest = fs::read_to_string(user.join("Cargo.toml")).unwrap();
    let path = r#"path = "../..""#;
    assert!(manifest.contains(path), "the dependency is by path");
    let own = format!(r#"path = "../{name}""#);
    fs::write(user.join("Cargo.toml"), manifest.replace(path, &own)).unwrap();
    // A plain debug build of the quick start.
    fs::create_dir_all(user.join("examples")).unwrap();
    let quick_start = "examples/quickstart.rs";
    fs::copy(package.join(quick_start), user.join(quick_start)).unwrap();
    // The versions that are downloaded already.
    fs::copy(root.join("Cargo.lock"), user.join("Cargo.lock")).unwrap();

    let mut tests = cargo(&user);
    tests.args(["test", "--offline"]);
    let report = run(tests.env("CARGO_TARGET_DIR", build.join("user")));
    let printed = run(&mut Command::new(
        build.join("user/debug/examples/quickstart"),
    ));
    assert!(printed.contains("300 epochs"), "{printed}");
    for test in [
        "the_whole_circuit_passes_the_gradient_check",
        "sweeps_bounded_by_the_curvature_lower_the_energy",
        "the_circuit_trains",
        "the_layer_passes_the_gradient_check",
        "the_loss_passes_the_gradient_check",
        "any_circuit_of_both_passes_the_gradient_check",
        "a_convolution_over_ones_own_patches_passes_the_gradient_check",
        "the_optimiser_moves_parameters_and_targets",
        "the_target_solver_lowers_the_energy",
        "the_descent_runs_in_the_crates_loop",
        "the_parameter_solver_solves_and_trains",
        "the_scheme_trains",
        "the_scheme_refuses_what_it_cannot_do",
        "the_objective_passes_the_gradient_check",
        "a_run_in_numbers_of_ones_own_is_that_in_f64",
        "every_multiplication_is_made_in_the_number_type",
    ] {
        let passed = format!("test {test} ... ok");
        assert!(report.contains(&passed), "'{passed}' is not in:\n{report}");
    }
}

#[test]
fn the_quick_start_is_the_readmes() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let [readme, example] = ["README.md", "examples/quickstart.rs"]
        .map(|name| fs::read_to_string(root.join(name)).unwrap());
    let (_, program) = readme.split_once("```rust\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    assert!(example.ends_with(program), "{program}");
}
