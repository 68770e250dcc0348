//! The other difficulties of backprop, one per module.

mod conditioning;
mod dead_units;
mod locking;
mod memory;
mod shattering;

use std::error::Error;

use crate::Options;
use crate::digits;

pub fn study(options: &Options) -> Result<(), Box<dyn Error>> {
    let data = digits::load(options.split_seed)?;
    let results = options.results()?;
    locking::table(options, &results)?;
    dead_units::table(options, &results, &data)?;
    shattering::table(options, &results, &data.0)?;
    memory::table(&data.0)?;
    conditioning::table(options, &results, &data)
}
