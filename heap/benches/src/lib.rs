//! What the measurements share.
//!
//! | file | subject |
//! |---|---|
//! | `arena` | memory for an allocator to work in |
//! | `peer` | the allocators, under one trait |
//! | `replay` | driving a peer through a recorded trace |
//! | `live` | freeing and allocating among many live blocks |
//! | `bin/alignment` | what alignments cost there |
//! | `bin/instructions` | one replay, for callgrind to count (`callgrind.sh`) |
//! | `bin/fit` | the smallest arena in which a trace completes |

pub mod arena;
pub mod live;
pub mod peer;
#[path = "../../tests/common/random.rs"]
pub mod random;
pub mod replay;
#[path = "../../tests/common/trace.rs"]
#[expect(missing_docs, reason = "it is a module of the tests")]
pub mod trace;
