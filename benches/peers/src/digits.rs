//! Training on digits to a test accuracy.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::Failure;

#[derive(Deserialize)]
pub struct Request {
    pub folder: PathBuf,
}

impl Request {
    pub fn run(&self, _threads: usize) -> Result<Value, Failure> {
        Err("not built yet".into())
    }
}
