//! placeholder
use crate::{failure::Failure, project::Project};
pub fn run(_project: &Project) -> Result<(), Failure> {
    Ok(())
}
