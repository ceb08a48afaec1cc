//! `./run-qemu.sh ci`: the list of everything that a pull request must pass, and the program that
//! runs it.
//!
//! Each step is a command whose last line is `N passed, N failed`, perhaps with `, N skipped`. The
//! last line of `./run-qemu.sh ci` is the sum over all steps.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, PipeReader},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Instant,
};

use crate::{
    failure::Failure,
    host::{cargo, find_program},
    host_tests,
    packages::AptGet,
    process,
    project::Project,
    report::{Report, Totals},
    terminal::{show, show_line},
};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// This program, with its arguments.
    Boot {
        /// The arguments, with a space between them.
        arguments: String,
        /// How many random programs a model test runs, if not its own number.
        programs: Option<&'static str>,
    },
    /// A program of the repository, with its arguments.
    Script(String),
    /// `cargo test` in a folder that is a workspace of its own.
    CargoTest(&'static str),
    /// Starts the mutations. They run beside the steps after this one.
    StartMutations,
    /// Installs programs that later steps use. Without them, those steps skip tests and say so.
    InstallPrograms,
}

/// The script that breaks rules of the heap, one at a time. It runs beside the other steps, because
/// it has a target folder of its own and takes the longest.
const MUTATIONS: &str = "heap/tests/mutations.sh";

/// The number of parts that the mutations are divided into: all of them take too long for the
/// shorter form.
const MUTATION_PARTS: usize = 24;

/// The programs that some steps need, and their packages.
const PROGRAMS: [(&str, &str); 2] = [("valgrind", "valgrind"), ("c++", "g++")];

/// Returns the steps, or the longer forms of them.
fn steps(long: bool) -> Vec<Step> {
    let boot = |arguments: &str| Step::Boot {
        arguments: arguments.into(),
        programs: None,
    };
    let mut steps = vec![Step::StartMutations];
    if long {
        // What the shorter form runs in the same way is not here.
        steps.extend([
            Step::Boot {
                arguments: "test".into(),
                programs: Some("30000"),
            },
            boot("test --kernel-only --memory 64M"),
            boot("test --kernel-only --memory 4G --uefi"),
            boot("test --kernel-only --smp 2"),
            boot("test --kernel-only --smp 4 --uefi"),
            // The CPUs take turns, always in the same way.
            boot("test --kernel-only --smp 4 --accel tcg"),
            boot("test --kernel-only --hardened"),
            boot("test --forks --uefi"),
            boot("test --kernel-only --soak 5"),
            boot("test --kernel-only --soak 5 --smp 4"),
        ]);
    } else {
        steps.extend([
            boot("test --junit target/junit.xml"),
            // A CPU with all features has a random number generator, which chooses the heap's
            // address.
            boot("test --uefi --cpu max --kernel-only --junit target/junit-uefi.xml"),
            boot("test --kernel-only --smp 4"),
            boot("test --kernel-only --hardened hardened"),
            boot("test --forks"),
        ]);
    }
    let fuzz_seconds = if long { 60 } else { 30 };
    steps.extend([
        Step::Boot {
            arguments: "test --i686".into(),
            programs: if long { None } else { Some("1000") },
        },
        Step::Script(if long {
            "heap/tests/features.sh".into()
        } else {
            "heap/tests/features.sh --short".into()
        }),
        Step::Script(if long {
            "heap/tests/msrv.sh".into()
        } else {
            "heap/tests/msrv.sh --build".into()
        }),
        Step::InstallPrograms,
        Step::Script("heap/tests/sanitizers.sh".into()),
        Step::CargoTest("heap/loom"),
        Step::Script(format!("heap/fuzz/run.sh {fuzz_seconds}")),
        boot("lint"),
    ]);
    steps
}

/// Runs all steps, and shows their sum.
///
/// # Errors
/// If a step failed, or a signal interrupted it.
pub(crate) fn run(project: &Project, long: bool) -> Result<(), Failure> {
    let mut totals = Totals::default();
    let mut mutations = None;
    let began = Instant::now();
    for step in steps(long) {
        let after = began.elapsed().as_secs();
        show_line(&format!("\n== {} (after {after} s)", step.name()));
        match step {
            Step::StartMutations => mutations = Some(Background::start(project, long)?),
            Step::InstallPrograms => install_programs(),
            step => totals += step.run(project)?,
        }
    }
    if let Some(mutations) = mutations {
        totals += mutations.finish()?;
    }
    show_line(&format!(
        "\n{} passed, {} failed, {} skipped",
        totals.passed, totals.failed, totals.skipped
    ));
    match totals.failed {
        0 => Ok(()),
        _ => Err(Failure::AlreadyReported(1)),
    }
}

/// Installs the [programs](PROGRAMS) that are missing.
fn install_programs() {
    let missing: Vec<_> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if let (false, Some(mut apt_get)) = (missing.is_empty(), AptGet::find())
        && let Err(why) = apt_get.install(&missing)
    {
        eprintln!("run-qemu.sh: apt-get: {why}");
    }
}

impl Step {
    /// Returns the command line for the user.
    fn name(&self) -> String {
        match self {
            Self::Boot { arguments, .. } => format!("./run-qemu.sh {arguments}"),
            Self::Script(line) => line.clone(),
            Self::CargoTest(folder) => format!("cargo test --release in {folder}"),
            Self::StartMutations => MUTATIONS.into(),
            Self::InstallPrograms => "installing programs".into(),
        }
    }

    /// Runs the step, and shows its output.
    fn run(&self, project: &Project) -> Result<Totals, Failure> {
        let began = Instant::now();
        let totals = match self {
            Self::CargoTest(folder) => {
                let mut command = Command::new(cargo());
                command
                    .args(["test", "--release"])
                    .current_dir(project.root().join(folder));
                let mut report = Report::default();
                report.add(folder, host_tests::collect(command)?);
                report.totals()
            }
            Self::StartMutations | Self::InstallPrograms => Totals::default(),
            Self::Boot {
                arguments,
                programs,
            } => {
                // This very program, even if a step builds another one in its place.
                let mut command = Command::new("/proc/self/exe");
                command.args(arguments.split(' '));
                command.envs(programs.map(|count| ("HEAP_PROGRAMS", count)));
                run_and_show(command.current_dir(project.root()), show)?
            }
            Self::Script(line) => {
                let mut words = line.split(' ').map(str::to_owned);
                let script = project.root().join(words.next().unwrap_or_default());
                let mut command = Command::new(script);
                command.args(words).current_dir(project.root());
                run_and_show(without_cargo(&mut command), show)?
            }
        };
        show_line(&format!("== took {} s", began.elapsed().as_secs()));
        Ok(totals)
    }
}

/// Removes the variables that cargo sets for the programs that it runs, such as this one.
fn without_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let is_of_package = name_text.starts_with("CARGO_PKG_")
            || name_text.starts_with("CARGO_BIN_")
            || name_text.starts_with("CARGO_MANIFEST_");
        if is_of_package || name_text == "CARGO" {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs `command`, passes its output to `show`, and returns the numbers in its last line.
fn run_and_show(command: &mut Command, show: fn(&[u8])) -> Result<Totals, Failure> {
    let pipe = |error| Failure::because("cannot make a pipe")(error);
    let (output, input) = io::pipe().map_err(pipe)?;
    command
        .stdin(Stdio::null())
        .stderr(input.try_clone().map_err(pipe)?)
        .stdout(input);
    let mut child = process::spawn(command).map_err(Failure::start(command.get_program()))?;
    // The command keeps the ends of the pipe that are written to. Reading ends when they are
    // closed.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let reader = thread::spawn(move || show_lines(output, show));
    let status = process::wait(&mut child)?;
    let last = reader.join().expect("reading lines does not panic");
    Ok(totals_of(&last, status))
}

/// Passes each line of `output` to `show`, and returns the last.
fn show_lines(output: PipeReader, show: fn(&[u8])) -> String {
    let mut last = Vec::new();
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        show(&[&line[..], b"\n"].concat());
        last = line;
    }
    String::from_utf8_lossy(&last).into_owned()
}

/// Returns the numbers in a step's last line. A step without such a line counts as one failure, and
/// so does one that counts no failure but ends with an error.
fn totals_of(last: &str, status: ExitStatus) -> Totals {
    let mut totals = Totals::parse(last).unwrap_or(Totals {
        failed: 1,
        ..Totals::default()
    });
    if !status.success() && totals.failed == 0 {
        totals.failed = 1;
    }
    totals
}

/// Returns the number of commits up to the one that is checked out; zero outside a repository.
fn commits(project: &Project) -> usize {
    let mut git = Command::new("git");
    git.args(["rev-list", "--count", "HEAD"])
        .current_dir(project.root());
    match process::run_quietly(&mut git) {
        Ok((status, count)) if status.success() => count.trim().parse().unwrap_or(0),
        _ => 0,
    }
}

/// The mutations, which run beside the other steps.
struct Background {
    child: Child,
    log: File,
    began: Instant,
}

impl Background {
    /// Starts the mutations with a low priority: all of them in the long form, and else a part that
    /// changes with each commit.
    fn start(project: &Project, long: bool) -> Result<Self, Failure> {
        let lost = |error| Failure::because("cannot keep a program's output")(error);
        let log = tempfile::tempfile_in(project.target()).map_err(lost)?;
        let mut command = Command::new("nice");
        command
            .arg(project.root().join(MUTATIONS))
            .args(if long {
                vec![]
            } else {
                let part = commits(project) % MUTATION_PARTS;
                vec!["--part".into(), format!("{part}/{MUTATION_PARTS}")]
            })
            .current_dir(project.root())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(lost)?)
            .stderr(log.try_clone().map_err(lost)?);
        let child =
            process::spawn(without_cargo(&mut command)).map_err(Failure::start("nice".as_ref()))?;
        Ok(Self {
            child,
            log,
            began: Instant::now(),
        })
    }

    /// Waits for their end, and shows their output.
    fn finish(mut self) -> Result<Totals, Failure> {
        let status = process::wait(&mut self.child)?;
        show_line(&format!("\n== {MUTATIONS}"));
        let output = process::read_from_start(&mut self.log)?;
        show(output.as_bytes());
        show_line(&format!("== took {} s", self.began.elapsed().as_secs()));
        let last = output.lines().next_back().unwrap_or_default();
        Ok(totals_of(last, status))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_step_is_a_command_that_exists() {
        let project = Project::find().unwrap();
        for step in [steps(false), steps(true)].concat() {
            match &step {
                Step::StartMutations | Step::InstallPrograms => {}
                Step::Boot { arguments, .. } => {
                    Cli::try_parse_from(["boot"].into_iter().chain(arguments.split(' '))).unwrap();
                }
                Step::Script(line) => {
                    let script = line.split(' ').next().unwrap();
                    assert!(project.root().join(script).is_file(), "{script}");
                }
                Step::CargoTest(folder) => {
                    let manifest = project.root().join(folder).join("Cargo.toml");
                    assert!(manifest.is_file(), "{folder}");
                }
            }
        }
        assert!(project.root().join(MUTATIONS).is_file());
    }

    #[test]
    fn a_step_that_fails_silently_counts_as_one_failure() {
        let totals = |last: &str, status| {
            let totals = totals_of(last, ExitStatus::from_raw(status << 8));
            (totals.passed, totals.failed, totals.skipped)
        };
        assert_eq!(totals("3 passed, 0 failed", 0), (3, 0, 0));
        assert_eq!(totals("3 passed, 2 failed, 1 skipped", 1), (3, 2, 1));
        assert_eq!(totals("3 passed, 0 failed", 1), (3, 1, 0));
        assert_eq!(totals("killed", 0), (0, 1, 0));
        assert_eq!(totals("", 101), (0, 1, 0));
    }

    #[test]
    fn the_output_of_a_step_is_counted_to_its_last_line() {
        let run = |script: &str| {
            let mut command = Command::new("sh");
            // Another program may read the output of this test, and count `9 failed` in it.
            run_and_show(command.args(["-c", script]), |_| {}).unwrap()
        };
        let totals = run("echo 9 passed, 9 failed; echo 2 passed, 0 failed >&2");
        assert_eq!((totals.passed, totals.failed), (2, 0));
        assert_eq!(run("exit 3").failed, 1);
    }
}
