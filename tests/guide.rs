//! The guide's programs print what is pasted below them. `build.rs` makes a module of each.
//!
//! Not pasted from here: the output of `start.md` for other data, and times, which are no results.

use std::cell::RefCell;
use std::fmt::{Arguments, Debug, Write};

thread_local! {
    /// What the program of this thread has printed.
    static PRINTED: RefCell<String> = const { RefCell::new(String::new()) };
}

fn print(line: Arguments<'_>) {
    PRINTED.with_borrow_mut(|text| writeln!(text, "{line}").unwrap());
}

/// In place of the standard one, for the programs below.
macro_rules! println {
    ($($arguments:tt)*) => {
        crate::print(format_args!($($arguments)*))
    };
}

/// Lines without the seconds in "20 epochs, 20 parameter steps, 0.0 s: all epochs done".
fn results(text: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(" s: ") {
        Some((before, after)) => {
            let untimed = before.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            format!("{untimed}_ s: {after}")
        }
        None => line.to_owned(),
    };
    text.lines().map(line).collect()
}

fn check<E: Debug>(program: fn() -> Result<(), E>, pasted: &str) {
    PRINTED.take();
    program().unwrap();
    assert_eq!(results(&PRINTED.take()), results(pasted));
}

include!(concat!(env!("OUT_DIR"), "/guide.rs"));
