//! Plots of training histories (feature `plot`).
//!
//! [`Runs`] collects histories. Runs with the same name, such as several seeds, are drawn as their
//! mean ± one standard deviation (sd). Each [`Panel`] shows one [`Measure`] of them, and a
//! [`Page`] of panels becomes an SVG. A panel can also show any other [`Line`]. Equal input gives
//! equal bytes.
//!
//! # Examples
//! ```
//! use layerwise::plot::{Axis, Measure, Page, Runs};
//! use layerwise::training::TrainingReport;
//!
//! fn draw(report: &TrainingReport<f32>) -> Result<(), layerwise::Error> {
//!     let runs = Runs::new().with_run("backprop", &report.history);
//!     let loss = Axis::logarithmic("composed loss per example");
//!     let panel = runs.panel(Measure::ComposedLoss, loss)?;
//!     Page::new("A training").with_panel(panel).save("loss.svg")
//! }
//! ```

mod axis;
mod canvas;
mod clip;
mod legend;
mod line;
mod measure;
mod page;
mod panel;
mod runs;
mod scale;
mod style;

pub use axis::Axis;
pub use line::{Band, Line};
pub use measure::{Along, Measure};
pub use page::Page;
pub use panel::Panel;
pub use runs::Runs;
