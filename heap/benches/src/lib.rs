//! The parts that the benchmarks share.
//!
//! | file | subject |
//! |---|---|
//! | `arena` | memory for an allocator to work in |
//! | `peer` | the allocators, under one trait |
//! | `workload` | recorded traces, random actions, blocks at pages |
//! | `replay` | driving a peer through a workload |
//! | `parts` | timing replays on a busy machine |
//! | `live` | freeing and allocating among many live blocks |
//! | `bin/alignment` | what alignments cost there |
//! | `bin/instructions` | one workload, for callgrind to count (`callgrind.sh`) |
//! | `bin/time` | net times |
//! | `bin/fit` | the smallest arena in which a trace completes |
//! | `bin/resident` | the pages that hold live bytes |
//! | `bin/threads` | random actions by several threads at once |

pub mod arena;
pub mod live;
pub mod pages;
pub mod parts;
pub mod peer;
#[path = "../../tests/common/random.rs"]
pub mod random;
pub mod replay;
#[path = "../../tests/common/trace.rs"]
#[expect(missing_docs, reason = "it is a module of the tests")]
pub mod trace;
pub mod workload;
