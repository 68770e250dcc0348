//! What the fuzz targets share: circuits and runs to read files into, files that are mended after a mutation,
//! and mutations of JSON.

pub mod arrays;
pub mod chance;
pub mod files;
pub mod json;
pub mod runs;
