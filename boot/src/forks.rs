//! `./run-qemu.sh test --forks`: builds and boots other kernels than this project's own. Twenty
//! small ones differ in the sizes of their parts, because the layout of the linker depends on them.
//! Then come a kernel outside of the workspace that has lifted the heap, a fork, made by the steps
//! in README.md, the demonstration, and its monitor.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kernel_protocol::config::Config;

use crate::{
    cli::{MachineOptions, NewOptions},
    demonstration, elf,
    failure::Failure,
    image::Builder,
    kernel::{Kernel, Padding},
    machine::{BOOT_LIMIT, Exit, Machine, SerialEvent},
    new::{self, copy},
    process,
    project::Project,
    qemu::Qemu,
    ramdisk,
    report::{TestResult, Verdict},
    serial::Piece,
    toolchain::Toolchain,
};

/// The number of small kernels.
const KERNELS: usize = 20;

/// One small kernel of this many is booted. The ELF files of all are checked.
const BOOT_EACH: usize = 2;

/// The folder of the kernel with a lifted heap, which is not in the workspace.
const LIFT: &str = "tests/lift";

/// The number of lines that lifting the heap may take.
const LIFT_LINES: usize = 25;

/// The time limit of a small kernel, on the clock of its machine.
const LIMIT: Duration = BOOT_LIMIT;

/// Builds and boots all kernels, and shows each result as it comes.
pub(crate) fn run(
    project: &Project,
    toolchain: &Toolchain,
    qemu: &Qemu,
    machine: &MachineOptions,
) -> Result<Vec<TestResult>, Failure> {
    let builder = Builder::prepare(project, toolchain, machine.build.firmware())?;
    let small = Small {
        project,
        toolchain,
        qemu,
        machine,
        builder,
    };
    let mut results = Vec::new();
    let mut keep = |name: &str, outcome: Result<(), Failure>| {
        let verdict = match outcome {
            Ok(()) => Verdict::Passed,
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => Verdict::Failed {
                how: "failed",
                reason: failure.to_string(),
            },
        };
        let result = TestResult::new(name, verdict);
        result.print();
        results.push(result);
        Ok(())
    };
    for (number, padding) in paddings().enumerate() {
        let Padding {
            code,
            constants,
            functions,
            variables,
        } = padding;
        let boots = number % BOOT_EACH == 0;
        let name = format!(
            "forks::{} {code}+{constants}+{functions}*8+{variables}",
            if boots { "boots" } else { "links" }
        );
        keep(&name, small.try_kernel(padding, boots))?;
    }
    keep("forks::lift", small.try_lift())?;
    keep("forks::readme", fork_of_the_readme(project))?;
    keep("forks::example", small.try_example("timer"))?;
    keep("forks::new", new_kernel(project, false))?;
    keep("forks::new_standalone", new_kernel(project, true))?;
    keep(
        "forks::demonstration",
        demonstration::try_demonstration(project, toolchain, qemu, &small.builder, machine),
    )?;
    keep(
        "forks::monitor",
        demonstration::try_monitor(project, toolchain, qemu, &small.builder, machine),
    )?;
    Ok(results)
}

/// Returns the padding of each small kernel. The first has none. The sizes of the others are up to
/// three pages, and their remainders by the size of a page are spread evenly.
fn paddings() -> impl Iterator<Item = Padding> {
    (0..KERNELS).map(|number| {
        let size = |step: usize, limit: usize| number * step % limit;
        Padding {
            code: size(2_711, 3 * 4096),
            constants: size(1_667, 2 * 4096),
            functions: size(211, 2 * 512),
            variables: size(3_079, 2 * 4096),
        }
    })
}

/// The parts that building and booting a small kernel needs.
struct Small<'a> {
    project: &'a Project,
    toolchain: &'a Toolchain,
    qemu: &'a Qemu,
    machine: &'a MachineOptions,
    builder: Builder<'a>,
}

impl Small<'_> {
    /// Builds a small kernel and checks its ELF file. If `boots`, boots it too.
    fn try_kernel(&self, padding: Padding, boots: bool) -> Result<(), Failure> {
        let options = &self.machine.build;
        let kernel = Kernel::Padded(padding).build(self.project, self.toolchain, options)?;
        if !boots {
            return elf::check(&kernel);
        }
        self.boot(&kernel)
    }

    /// Builds an example of the kernel, and boots it.
    fn try_example(&self, name: &str) -> Result<(), Failure> {
        let kernel = Kernel::Example(name.into());
        let kernel = kernel.build(self.project, self.toolchain, &self.machine.build)?;
        self.boot(&kernel)
    }

    /// Builds the kernel with a lifted heap, and boots it. It fails unless its memory comes back.
    fn try_lift(&self) -> Result<(), Failure> {
        let folder = self.project.root().join(LIFT);
        let set_up = folder.join("src/heap.rs");
        let text = fs::read_to_string(&set_up).map_err(Failure::io("cannot read", &set_up))?;
        let lines = lines_of_code(&text);
        if lines > LIFT_LINES {
            let why = format!("{LIFT}/src/heap.rs has {lines} lines of code, not {LIFT_LINES}");
            return Err(Failure::Input(why));
        }
        let (mut cargo, target) = self.toolchain.package_cargo(self.project, LIFT, "build");
        cargo.arg("--release");
        let status = process::run(&mut cargo)?;
        if !status.success() {
            return Err(Failure::Build {
                what: LIFT.into(),
                status,
            });
        }
        self.boot(&target.join("x86_64-talc/release/lift"))
    }

    /// Boots a kernel, and waits for its end.
    fn boot(&self, kernel: &Path) -> Result<(), Failure> {
        let config = Config {
            host: true,
            ..Config::default()
        };
        let ramdisk = ramdisk::archive(&config, &[], &[])?;
        let image = self.builder.make(kernel, &ramdisk, self.project.target())?;
        let machine = self.qemu.start(self.machine, kernel, image.path(), None)?;
        let exit = watch(machine).map_err(|failure| self.machine.explain(failure))?;
        match exit.failure() {
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }
}

/// Returns the number of lines of `source` that are neither empty nor comments.
fn lines_of_code(source: &str) -> usize {
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    source.lines().map(str::trim).filter(is_code).count()
}

/// Waits for the end of `machine`. Shows its output if it fails.
fn watch(mut machine: Machine) -> Result<Exit, Failure> {
    let mut splitter = machine.splitter();
    let mut text = Vec::new();
    loop {
        if process::interrupted() {
            return Err(Failure::Interrupted);
        }
        if machine.clock() > LIMIT {
            return Err(Failure::timed_out("end of a small kernel", LIMIT));
        }
        match machine.listen(process::POLL) {
            SerialEvent::Nothing => {}
            SerialEvent::Bytes(bytes) => {
                let taken = splitter.push(&bytes, |piece| {
                    if let Piece::Text(piece) = piece {
                        text.extend(piece);
                    }
                    Ok(())
                });
                taken.inspect_err(|_| eprint!("{}", splitter.before_ready()))?;
            }
            SerialEvent::End => {
                let exit = machine.end();
                if !matches!(exit, Ok(Exit::SUCCESS)) {
                    let output = String::from_utf8_lossy(&text);
                    eprint!("{}{output}", splitter.before_ready());
                }
                return exit;
            }
        }
    }
}

/// Makes the fork of README.md in a copy of the repository, and boots it with the script of the
/// copy.
///
/// The copy is not below the target folder. If it were, cargo would note paths of its files that
/// are relative to the target folder. Later builds of this repository would then look for changes
/// in the copy.
fn fork_of_the_readme(project: &Project) -> Result<(), Failure> {
    let readme = project.root().join("README.md");
    let text = fs::read_to_string(&readme).map_err(Failure::io("cannot read", &readme))?;
    let recipe = Recipe::read(&text).ok_or_else(|| {
        Failure::Input("README.md has no section `By hand` in the expected form".into())
    })?;
    let folder = tempfile::Builder::new()
        .prefix("fork-of-readme-")
        .tempdir()
        .map_err(Failure::because("cannot make a folder for a fork"))?;
    let fork = folder.path();
    copy(project.root(), fork, &[]).map_err(Failure::io("cannot copy the repository to", fork))?;
    recipe
        .apply(fork)
        .map_err(Failure::io("cannot make a fork in", fork))?;
    let tests: Vec<_> = recipe.tests.command.split(' ').skip(1).collect();
    run_script(project, fork, &[], EXPECTED)
        .and_then(|()| run_script(project, fork, &tests, "\n2 passed, 0 failed"))
        .inspect_err(|_| _ = folder.keep())
}

/// Makes a kernel with the command `new`, boots it, and runs its tests, with its own script.
fn new_kernel(project: &Project, standalone: bool) -> Result<(), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("new-kernel-")
        .tempdir()
        .map_err(Failure::because("cannot make a folder for a kernel"))?;
    let own = folder.path().join("own");
    new::run(
        project,
        &NewOptions {
            name: "own-kernel".into(),
            folder: Some(own.clone()),
            standalone,
        },
    )?;
    run_script(project, &own, &[], "This is own-kernel")
        .and_then(|()| run_script(project, &own, &["test"], "\n3 passed, 0 failed"))
        .inspect_err(|_| _ = folder.keep())
}

/// Calls the script of the kernel in `folder`. Succeeds if the script does, and its output contains
/// `expected`. Otherwise shows the output.
///
/// The kernel shares the target folder, so that little is built again.
fn run_script(
    project: &Project,
    folder: &Path,
    arguments: &[&str],
    expected: &str,
) -> Result<(), Failure> {
    let mut script = Command::new("sh");
    // The variable names the package of this program, but the script may build a copy.
    script
        .arg(folder.join("run-qemu.sh"))
        .args(arguments)
        .env("CARGO_TARGET_DIR", project.target())
        .env_remove("CARGO_MANIFEST_DIR");
    let (status, output) = process::run_quietly(&mut script)?;
    if status.success() && output.contains(expected) {
        return Ok(());
    }
    eprint!("{output}");
    Err(Failure::Build {
        what: format!("the kernel in {}", folder.display()),
        status,
    })
}

/// A part of the output of README.md's kernel: the statistics of its heap.
const EXPECTED: &str = "Stats { claimed:";

/// The steps of README.md that make a fork.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    /// The folder to delete.
    folder: PathBuf,
    /// The manifest with the dependencies to delete.
    manifest: PathBuf,
    /// The names of those dependencies.
    dependencies: Vec<String>,
    /// The file to write.
    main: PathBuf,
    /// The new content of that file.
    source: String,
    tests: TestRecipe,
}

/// The step of README.md that adds tests.
#[derive(Debug, PartialEq, Eq)]
struct TestRecipe {
    /// The file to write.
    file: PathBuf,
    /// Its content.
    source: String,
    /// The line that names the file's module, and the file that the line is added to.
    module: String,
    main: PathBuf,
    /// The command that runs the tests.
    command: String,
}

impl TestRecipe {
    /// Reads step 3. `None` if it has another form.
    fn read(step: &str) -> Option<Self> {
        let mut names = quoted(step).map(str::to_owned);
        let (file, module, main) = (names.next()?.into(), names.next()?, names.next()?.into());
        let command = names.find(|name| name.contains("--kernel-only"))?;
        let source = code(step)?;
        Some(Self {
            file,
            source,
            module,
            main,
            command,
        })
    }

    /// Applies the step to the copy of the repository in `fork`.
    fn apply(&self, fork: &Path) -> std::io::Result<()> {
        fs::write(fork.join(&self.file), &self.source)?;
        let main = fork.join(&self.main);
        let text = fs::read_to_string(&main)?;
        fs::write(main, format!("{text}{}\n", self.module))
    }
}

impl Recipe {
    /// Reads the steps of the section "By hand". `None` if they have another form.
    fn read(readme: &str) -> Option<Self> {
        let (_, section) = readme.split_once("\n### By hand\n")?;
        let (first, rest) = section.split_once("\n2. ")?;
        let (second, third) = rest.split_once("\n3. ")?;
        let mut names = quoted(first).map(str::to_owned);
        Some(Self {
            folder: names.next()?.into(),
            manifest: names.next()?.into(),
            dependencies: names.collect(),
            main: quoted(second).next()?.into(),
            source: code(second)?,
            tests: TestRecipe::read(third)?,
        })
    }

    /// Applies the steps to the copy of the repository in `fork`.
    fn apply(&self, fork: &Path) -> std::io::Result<()> {
        fs::remove_dir_all(fork.join(&self.folder))?;
        let manifest = fork.join(&self.manifest);
        let is_kept = |line: &&str| {
            let name = line.split_once('=').map(|(name, _)| name.trim());
            !self.dependencies.iter().any(|it| Some(&**it) == name)
        };
        let kept: Vec<_> = fs::read_to_string(&manifest)?
            .lines()
            .filter(is_kept)
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(manifest, kept.concat())?;
        fs::write(fork.join(&self.main), &self.source)?;
        self.tests.apply(fork)
    }
}

/// The beginning of a line of code in a list.
const CODE: &str = "       ";

/// Returns the code in a step. `None` if there is none.
fn code(step: &str) -> Option<String> {
    let lines = step.lines().skip_while(|line| !line.starts_with(CODE));
    let lines = lines.take_while(|line| line.is_empty() || line.starts_with(CODE));
    let code: String = lines
        .map(|line| line.strip_prefix(CODE).unwrap_or_default().to_owned() + "\n")
        .collect();
    Some(code).filter(|code| !code.is_empty())
}

/// Returns the parts of `text` between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_the_readme_are_read() {
        let recipe = Recipe::read(include_str!("../../README.md")).unwrap();
        assert_eq!(recipe.folder, Path::new("kernel/src/demo/"));
        assert_eq!(recipe.manifest, Path::new("kernel/Cargo.toml"));
        assert_eq!(recipe.dependencies, ["linked_list_allocator", "talc"]);
        assert_eq!(recipe.main, Path::new("kernel/src/main.rs"));
        assert!(
            recipe.source.starts_with("#![cfg_attr("),
            "{}",
            recipe.source
        );
        assert!(
            recipe.source.trim_end().ends_with("\n}"),
            "{}",
            recipe.source
        );
    }

    #[test]
    fn a_fork_follows_the_steps_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let (root, fork) = (folder.path().join("root"), folder.path().join("fork"));
        for file in [
            "kernel/src/demo/mod.rs",
            "tests/src/main.rs",
            "target/x",
            "heap/target/x",
            ".git/x",
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let manifest = "[dependencies]\nheap = 1\n# those\ntalc = { a = 1 }\ntalc-like = 2\n";
        fs::write(root.join("kernel/Cargo.toml"), manifest).unwrap();
        copy(&root, &fork, &[]).unwrap();
        assert!(!fork.join("target").exists() && !fork.join("heap/target").exists());
        assert!(!fork.join(".git").exists());
        let readme = "# x\n\n### By hand\n\n\
                      1. Delete `kernel/src/demo/` and in `kernel/Cargo.toml` (`other`, `talc`).\n\
                      2. Write `kernel/src/main.rs`:\n\n       one\n\n           two\n\n   Then\n\
                      3. Such as `tests/src/x.rs`, `mod x;` in `tests/src/main.rs`:\n\n       \
                      three\n\n   \
                      Run `./run-qemu.sh test`, or `./run-qemu.sh test --kernel-only x::`.\n";
        let recipe = Recipe::read(readme).unwrap();
        recipe.apply(&fork).unwrap();
        assert_eq!(recipe.tests.command, "./run-qemu.sh test --kernel-only x::");
        assert!(!fork.join("kernel/src/demo").exists());
        let read = |file: &str| fs::read_to_string(fork.join(file)).unwrap();
        assert_eq!(
            read("kernel/Cargo.toml"),
            "[dependencies]\nheap = 1\n# those\ntalc-like = 2\n"
        );
        assert_eq!(read("kernel/src/main.rs"), "one\n\n    two\n\n");
        assert_eq!(read("tests/src/x.rs"), "three\n\n");
        assert_eq!(read("tests/src/main.rs"), "mod x;\n");
    }

    #[test]
    fn comments_and_empty_lines_are_no_code() {
        assert_eq!(lines_of_code("//! x\n\n    // y\nlet x = 1; // z\n}\n"), 2);
    }

    #[test]
    fn the_paddings_differ_and_reach_over_a_page() {
        let all: Vec<_> = paddings().collect();
        for (index, padding) in all.iter().enumerate() {
            assert!(!all[..index].contains(padding), "{padding:?} twice");
        }
        assert!(all.iter().any(|padding| padding.functions * 8 > 4096));
        let small = |padding: &&Padding| padding.functions * 8 < 4096;
        assert!(all.iter().filter(small).count() > 5);
    }
}
