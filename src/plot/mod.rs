//! Training histories as pictures (feature `plot`).
//!
//! [`Runs`] collects histories; runs of one name are seeds, drawn as their mean ± sd. Each
//! [`Panel`] shows one [`Measure`] of them, and a [`Page`] of panels becomes an SVG. A panel takes
//! any other [`Line`] too. Equal input gives equal bytes.
//!
//! # Examples
//! ```
//! use layerwise::plot::{Axis, Measure, Page, Runs};
//! use layerwise::prelude::*;
//!
//! # fn model(seed: u64) -> Result<DecoupledCircuit<f64>, Error> {
//! #     let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Identity)?);
//! #     let mut model = DecoupledCircuit::new(circuit.seed(seed).build()?, Energy::default())?;
//! #     let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
//! #     model.add_examples(&x, &x.map(|x| 2.0 * x), &TargetInit::ForwardPass)?;
//! #     Ok(model)
//! # }
//! let mut runs = Runs::new();
//! for seed in 0..3 {
//!     let trainer = Trainer::new(Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(20));
//!     let report = trainer.run(&mut model(seed)?)?;
//!     runs = runs.with_run("backprop", &report.history);
//! }
//! let loss = Axis::logarithmic("composed loss per example");
//! let page = Page::new("A line").with_panel(runs.panel(Measure::ComposedLoss, loss)?);
//! # let path = std::env::temp_dir().join("layerwise-example.svg");
//! page.save(&path)?;
//! # assert!(page.to_svg()?.contains("backprop (mean ± sd, n = 3)"));
//! # std::fs::remove_file(&path).unwrap();
//! # Ok::<(), Error>(())
//! ```

mod axis;
mod canvas;
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
