//! Observers to add to a run: a log as CSV or JSON lines, a progress bar, tracing.
//!
//! Add one to a [`Session`](crate::training::Session) with
//! [`Session::observe`](crate::training::Session::observe), and it receives every event; several
//! can watch one run. Nothing is printed or written unless one is added.
//!
//! `JsonLines` needs the feature `json`, `ProgressBar` `progress`, and `Trace` `tracing`.

mod csv_log;
#[cfg(feature = "json")]
mod json_lines;
mod output;
#[cfg(feature = "progress")]
mod progress_bar;
#[cfg(feature = "tracing")]
mod trace;

pub use csv_log::CsvLog;
#[cfg(feature = "json")]
pub use json_lines::JsonLines;
#[cfg(feature = "progress")]
pub use progress_bar::ProgressBar;
#[cfg(feature = "tracing")]
pub use trace::Trace;
