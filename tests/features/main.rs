//! The tests of what optional features bring, a module each.

#[cfg(feature = "argmin")]
mod argmin;
#[cfg(feature = "autodiff")]
mod autodiff;
#[cfg(feature = "storage")]
mod checkpoints;
#[cfg(all(feature = "csv", feature = "storage"))]
mod csv;
#[cfg(feature = "storage")]
mod disks;
#[cfg(feature = "dual")]
mod dual;
mod fuzz;
#[cfg(all(
    feature = "storage",
    feature = "json",
    feature = "progress",
    feature = "tracing"
))]
mod observers;
#[cfg(feature = "serde")]
mod options;
#[cfg(feature = "plot")]
mod plot;
#[cfg(feature = "serde")]
mod reports;
#[cfg(feature = "serde")]
mod sessions;
#[cfg(feature = "serde")]
mod shards;
#[cfg(all(
    feature = "storage",
    feature = "json",
    feature = "progress",
    feature = "tracing"
))]
mod soak;
#[cfg(feature = "storage")]
mod storage;
#[cfg(feature = "proptest")]
mod strategies;
#[cfg(feature = "storage")]
mod streamed;
#[cfg(feature = "serde")]
mod target_solvers;
