//! Observers to add to a run: a log as CSV or JSON lines, a progress bar, tracing.
//!
//! Each is told every event of a [`Session`](crate::training::Session) by
//! [`Session::observe`](crate::training::Session::observe); several can watch one run. Nothing is
//! printed or written unless one is added.
//!
//! | observer | feature | writes |
//! |---|---|---|
//! | [`CsvLog`] | | one line per epoch |
//! | `JsonLines` | `json` | one line per event, and one per visit if asked for |
//! | `ProgressBar` | `progress` | one line on the terminal: E, losses, gap, metric, time left |
//! | `Trace` | `tracing` | spans and events for a subscriber of your own |

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
