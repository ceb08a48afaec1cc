//! The harness of the tests that run inside the kernel.
//!
//! [`kernel_test!`](crate::kernel_test) puts a test into a section of the program, wherever it
//! stands: in the kernel's own crate, in any module, or in a crate that the kernel uses. [`run`]
//! runs the tests that the configuration selects, in the order of their names. Lines that begin
//! with `@` tell the host when a test begins and how it ended.
//!
//! A test that panics or faults ends the kernel, also if that is expected: the host boots again,
//! and continues with the next test. The host does the same when a test exceeds its deadline.

mod running;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::hint::black_box;

use kernel_protocol::record::{Outcome, Record};
use linkme::distributed_slice;
use spin::Once;

use crate::audit;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::memory::frames::{self, Usage};
use crate::memory::{arenas, protection};
use crate::panic::set_crash_hook;
use crate::println;
use crate::serial::{self, print_record};

/// The condition for a test to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// The test returns.
    Returns,
    /// The test panics with a message that contains this text.
    Panics(&'static str),
    /// The CPU raises an exception whose report contains this text.
    Faults(&'static str),
}

/// A test, defined by [`kernel_test!`](crate::kernel_test).
#[derive(Debug)]
pub struct Test {
    /// The crate, module and function, separated by `::`.
    pub path: &'static str,
    /// The condition for the test to pass.
    pub expectation: Expectation,
    /// The time in seconds after which the host stops the test.
    pub deadline: u32,
    /// Whether the test runs only where the time-stamp counter counts instructions: it measures
    /// with it, or takes a moment for a number of instructions.
    pub counts_instructions: bool,
    /// The function to run.
    pub function: fn(),
}

/// The deadline of a test that names none, in seconds.
pub const DEFAULT_DEADLINE: u32 = 60;

/// The name of the kernel's own crate, in front of the paths of its tests.
static ROOT: Once<&str> = Once::new();

/// All tests of the program and of the crates in it, in no particular order.
#[distributed_slice]
pub static TESTS: [Test];

impl Test {
    /// Creates a test that must return.
    pub const fn new(path: &'static str, function: fn()) -> Self {
        Self {
            path,
            expectation: Expectation::Returns,
            deadline: DEFAULT_DEADLINE,
            counts_instructions: false,
            function,
        }
    }

    /// Expects a panic with a message that contains `message`.
    #[must_use]
    pub const fn should_panic(mut self, message: &'static str) -> Self {
        self.expectation = Expectation::Panics(message);
        self
    }

    /// Expects a fault with a report that contains `report`.
    #[must_use]
    pub const fn should_fault(mut self, report: &'static str) -> Self {
        self.expectation = Expectation::Faults(report);
        self
    }

    /// Sets the deadline, in seconds.
    #[must_use]
    pub const fn deadline(mut self, seconds: u32) -> Self {
        self.deadline = seconds;
        self
    }

    /// Leaves the test out where the time-stamp counter does not count instructions.
    #[must_use]
    pub const fn counts_instructions(mut self, counts: bool) -> Self {
        self.counts_instructions = counts;
        self
    }

    /// Returns the module and function, behind the crate unless it is the kernel's own.
    pub fn name(&self) -> &'static str {
        match self.path.split_once("::") {
            Some((krate, name)) if ROOT.get() == Some(&krate) => name,
            _ => self.path,
        }
    }

    /// Returns whether `config` selects the test.
    fn is_selected(&self, config: &Config) -> bool {
        config
            .filter
            .is_none_or(|filter| self.name().contains(filter))
            && config.after.is_none_or(|after| self.name() > after)
            && (!self.counts_instructions || config.ticks_per_instruction.is_some())
    }
}

/// Runs the tests that `config` selects, and reports them to the host. `root` is the path of a
/// module of the kernel's own crate.
///
/// Two tests of one name cannot be told apart: then none runs.
pub fn run(config: &Config, root: &'static str) -> ExitCode {
    ROOT.call_once(|| root.split("::").next().unwrap_or(root));
    if let Some(name) = find_twice() {
        println!("refused: two tests have the name {name}");
        return ExitCode::Refused;
    }
    set_crash_hook(running::crashed);
    let selected = || TESTS.iter().filter(|test| test.is_selected(config));
    print_record(Record::Tests(selected().count()));
    if let Some(window) = arenas::window() {
        println!("The heap's window: {window}");
    }
    let mut baseline = baseline();
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
            // What this test has left is not the fault of the next one.
            baseline = frames::usage();
        }
        previous = test.name();
    }
    print_record(Record::Done { passed, failed });
    if failed == 0 {
        ExitCode::Success
    } else {
        ExitCode::Failed
    }
}

/// Returns a name that two tests have.
fn find_twice() -> Option<&'static str> {
    let mut names = TESTS.iter().map(Test::name).collect::<Vec<_>>();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1])?;
    Some(twice[0])
}

/// Runs `program` with increasing seeds, from the seed of the configuration on, until the host
/// sends a byte. Reports each program to the host before it begins. `program` returns its number of
/// operations.
pub fn soak(config: &Config, program: impl Fn(u64) -> u64) -> ExitCode {
    let baseline = baseline();
    let (mut seed, mut programs, mut operations) = (config.seed, 0_usize, 0_u64);
    let failure = loop {
        print_record(Record::Soak {
            seed,
            programs,
            operations,
        });
        operations += program(seed);
        if let Some(failure) = find_leftover(&baseline) {
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
    print_record(Record::Done {
        passed: programs,
        failed,
    });
    if failed == 0 {
        ExitCode::Success
    } else {
        ExitCode::Failed
    }
}

/// Returns the frames that are in use while the heap is empty. The first heap is never unmapped, so
/// this function makes sure that the first heap exists.
fn baseline() -> Usage {
    drop(black_box(Box::new(0_u64)));
    audit::quiesce();
    frames::usage()
}

/// Runs one test. If the test returns, returns whether it passed.
fn run_one(test: &'static Test, baseline: &Usage) -> bool {
    print_record(Record::Begin {
        name: test.name(),
        deadline: test.deadline,
    });
    running::begin(test);
    (test.function)();
    let Some(ended) = running::end() else {
        return false;
    };
    let failure = match test.expectation {
        Expectation::Returns => find_leftover(baseline),
        Expectation::Panics(_) => Some(Failure::DidNotPanic),
        Expectation::Faults(_) => Some(Failure::DidNotFault),
    };
    let outcome = if failure.is_none() {
        Outcome::Passed
    } else {
        Outcome::Failed
    };
    let reason = failure.as_ref().map(|failure| failure as &dyn fmt::Display);
    ended.report(outcome, frames::usage().used(), reason, print_record);
    failure.is_none()
}

/// Returns the first difference between the state after a test and the baseline.
fn find_leftover(baseline: &Usage) -> Option<Failure> {
    audit::quiesce();
    if let Err(mismatch) = audit::check() {
        return Some(Failure::Audit(mismatch));
    }
    if let Err(mismatch) = protection::check() {
        return Some(Failure::Protection(mismatch));
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

/// The number of additional pages of boundary tags that may stay: a single tag in use retains a
/// page.
const SPARE_TAG_PAGES: usize = 4;

/// The reason why a test that returned did not pass.
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
            Self::Audit(mismatch) => write!(f, "the audit found a mismatch: {mismatch}"),
            Self::Protection(mismatch) => write!(f, "memory is not protected: {mismatch}"),
            Self::Frames {
                what,
                before,
                after,
            } => write!(
                f,
                "frames in use for {what}: {before} before, {after} after; a test keeps nothing"
            ),
        }
    }
}

/// Defines tests that run inside the kernel: one function or more.
///
/// ```text
/// kernel_test! {
///     /// Describes the behaviour.
///     fn name_of_the_behaviour(should_fault = "guard page", deadline = 10) { … }
///
///     /// Describes another behaviour.
///     fn name_of_the_other_behaviour() { … }
/// }
/// ```
///
/// The settings in the parentheses are methods of [`Test`] with their arguments.
#[macro_export]
macro_rules! kernel_test {
    ($(
        $(#[$attribute:meta])*
        fn $name:ident($($setting:ident = $value:expr),* $(,)?) $body:block
    )+) => {$(
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
    )+};
}
