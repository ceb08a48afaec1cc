//! The harness of the tests that run inside the kernel.
//!
//! [`kernel_test!`](crate::kernel_test) puts a test into a section of the program; [`run`] runs
//! those that the configuration asks for, in the order of their names, and tells the host with a
//! line that begins with `@` when a test begins and how it ended. A test that panics or faults ends
//! the kernel, whether it was meant to or not: the host boots again, and goes on after it. The same
//! happens when a test takes longer than its deadline.

mod running;

use alloc::boxed::Box;
use core::fmt;
use core::hint::black_box;

use linkme::distributed_slice;

use crate::audit;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::memory::frames::{self, Usage};
use crate::memory::{arenas, protection};
use crate::panic::set_crash_hook;
use crate::println;
use crate::serial::{self, print_on_fresh_line};
use running::Outcome;

/// What must happen for a test to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// It returns.
    Returns,
    /// It panics, with a message that contains this.
    Panics(&'static str),
    /// The CPU raises an exception, whose report contains this.
    Faults(&'static str),
}

/// A test, as [`kernel_test!`](crate::kernel_test) makes it.
#[derive(Debug)]
pub struct Test {
    /// Crate, module and function.
    pub path: &'static str,
    /// What must happen.
    pub expectation: Expectation,
    /// After so many seconds the host gives up.
    pub deadline: u32,
    /// The test.
    pub function: fn(),
}

/// The deadline of a test that names none, in seconds.
pub const DEFAULT_DEADLINE: u32 = 60;

/// All tests of the program, in no particular order.
#[distributed_slice]
pub static TESTS: [Test];

impl Test {
    /// A test that is to return.
    pub const fn new(path: &'static str, function: fn()) -> Self {
        Self {
            path,
            expectation: Expectation::Returns,
            deadline: DEFAULT_DEADLINE,
            function,
        }
    }

    /// The same test, which is to panic with a message that contains this.
    #[must_use]
    pub const fn should_panic(mut self, message: &'static str) -> Self {
        self.expectation = Expectation::Panics(message);
        self
    }

    /// The same test, which is to fault with a report that contains this.
    #[must_use]
    pub const fn should_fault(mut self, report: &'static str) -> Self {
        self.expectation = Expectation::Faults(report);
        self
    }

    /// The same test with another deadline, in seconds.
    #[must_use]
    pub const fn deadline(mut self, seconds: u32) -> Self {
        self.deadline = seconds;
        self
    }

    /// Module and function, without the crate.
    pub fn name(&self) -> &'static str {
        self.path
            .split_once("::")
            .map_or(self.path, |(_, name)| name)
    }

    fn is_selected(&self, config: &Config) -> bool {
        config
            .filter
            .is_none_or(|filter| self.name().contains(filter))
            && config.after.is_none_or(|after| self.name() > after)
    }
}

/// Runs the tests that `config` selects, and tells the host about them.
pub fn run(config: &Config) -> ExitCode {
    set_crash_hook(running::died);
    let selected = || TESTS.iter().filter(|test| test.is_selected(config));
    print_on_fresh_line(format_args!("@tests {}\n", selected().count()));
    if let Some(window) = arenas::window() {
        println!("The heap's window: {window}");
    }
    let baseline = baseline();
    let (mut passed, mut failed) = (0, 0);
    let mut previous = "";
    while let Some(test) = selected()
        .filter(|test| test.name() > previous)
        .min_by_key(|test| test.name())
    {
        if run_one(test, &baseline) {
            passed += 1;
        } else {
            failed += 1;
        }
        previous = test.name();
    }
    print_on_fresh_line(format_args!("@done passed={passed} failed={failed}\n"));
    if failed == 0 {
        ExitCode::Success
    } else {
        ExitCode::Failed
    }
}

/// Runs `program` with one seed after the other, from that of the configuration on, until the host sends something.
/// Tells the host about each before it begins. `program` returns how many operations it was.
pub fn soak(config: &Config, program: impl Fn(u64) -> u64) -> ExitCode {
    let baseline = baseline();
    let (mut seed, mut programs, mut operations) = (config.seed, 0_usize, 0_u64);
    let failure = loop {
        print_on_fresh_line(format_args!(
            "@soak seed={seed} programs={programs} operations={operations}\n"
        ));
        operations += program(seed);
        if let Some(failure) = disagreement(&baseline) {
            break Some(failure);
        }
        programs += 1;
        seed = seed.wrapping_add(1);
        if serial::try_read_byte().is_some() {
            break None;
        }
    };
    if let Some(failure) = &failure {
        println!("{failure}");
    }
    let failed = usize::from(failure.is_some());
    print_on_fresh_line(format_args!("@done passed={programs} failed={failed}\n"));
    if failed == 0 {
        ExitCode::Success
    } else {
        ExitCode::Failed
    }
}

/// The frames that are in use when the heap is empty. The first heap that it claims stays: let it be
/// there from the beginning.
fn baseline() -> Usage {
    drop(black_box(Box::new(0_u64)));
    audit::quiesce();
    frames::usage()
}

/// Runs one test, and if it comes back, says whether it passed.
fn run_one(test: &'static Test, baseline: &Usage) -> bool {
    let (name, deadline) = (test.name(), test.deadline);
    print_on_fresh_line(format_args!("@begin {name} deadline={deadline}\n"));
    running::begin(test);
    (test.function)();
    let Some(ended) = running::end() else {
        return false;
    };
    let failure = match test.expectation {
        Expectation::Returns => disagreement(baseline),
        Expectation::Panics(_) => Some(Failure::DidNotPanic),
        Expectation::Faults(_) => Some(Failure::DidNotFault),
    };
    let outcome = if failure.is_none() {
        Outcome::Passed
    } else {
        Outcome::Failed
    };
    let reason = failure.as_ref().map(|failure| failure as &dyn fmt::Display);
    let record = ended.record(outcome, frames::usage().used(), reason);
    print_on_fresh_line(format_args!("{record}\n"));
    failure.is_none()
}

/// What a test has left behind that it should not.
fn disagreement(baseline: &Usage) -> Option<Failure> {
    audit::quiesce();
    if let Err(disagreement) = audit::check() {
        return Some(Failure::Audit(disagreement));
    }
    if let Err(violation) = protection::check() {
        return Some(Failure::Protection(violation));
    }
    let now = frames::usage();
    [
        ("the heap", baseline.heap, now.heap, 0),
        ("page tables", baseline.page_tables, now.page_tables, 0),
        ("boundary tags", baseline.tags, now.tags, SPARE_TAG_PAGES),
        ("other things", baseline.other, now.other, 0),
    ]
    .into_iter()
    .find(|&(_, before, after, spare)| !(before..=before + spare).contains(&after))
    .map(|(what, before, after, _)| Failure::Frames {
        what,
        before,
        after,
    })
}

/// So many pages of boundary tags may stay: one tag in use keeps its page.
const SPARE_TAG_PAGES: usize = 4;

/// Why a test that came back did not pass.
enum Failure {
    DidNotPanic,
    DidNotFault,
    Audit(audit::Mismatch),
    Protection(protection::Mismatch),
    Frames {
        what: &'static str,
        before: usize,
        after: usize,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DidNotPanic => f.write_str("it did not panic"),
            Self::DidNotFault => f.write_str("it did not fault"),
            Self::Audit(disagreement) => write!(f, "accounts disagree: {disagreement}"),
            Self::Protection(violation) => write!(f, "memory is not protected: {violation}"),
            Self::Frames {
                what,
                before,
                after,
            } => write!(
                f,
                "{before} frames were for {what} before the first test, and {after} are now"
            ),
        }
    }
}

/// Defines a test that runs inside the kernel.
///
/// ```text
/// kernel_test! {
///     /// What it shows.
///     fn name_of_the_behaviour(should_fault = "guard page", deadline = 10) { … }
/// }
/// ```
///
/// In the parentheses are methods of [`Test`] and their arguments.
#[macro_export]
macro_rules! kernel_test {
    (
        $(#[$attribute:meta])*
        fn $name:ident($($setting:ident = $value:expr),* $(,)?) $body:block
    ) => {
        $(#[$attribute])*
        fn $name() {
            #[$crate::linkme::distributed_slice($crate::testing::TESTS)]
            #[linkme(crate = $crate::linkme)]
            static TEST: $crate::testing::Test = $crate::testing::Test::new(
                ::core::concat!(::core::module_path!(), "::", ::core::stringify!($name)),
                $name,
            )
            $(.$setting($value))*;

            $body
        }
    };
}
