use super::*;

#[test]
fn claps_checks_of_the_options_pass() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_a_fork_leaves_out_what_is_for_this_repository() {
    let mut command = for_fork(Cli::command());
    command.build();
    let test = command.find_subcommand_mut("test").unwrap();
    let mut help = test.render_long_help().to_string();
    assert!(
        help.contains("--filter") || help.contains("[FILTER]"),
        "{help}"
    );
    help += &command.render_long_help().to_string();
    assert!(
        help.contains("--gdb") && help.contains("Exit status"),
        "{help}"
    );
    for word in [
        "demonstration",
        "trace",
        "--forks",
        "--hardened",
        "lint",
        "  new ",
    ] {
        assert!(!help.contains(word), "{word}: {help}");
    }
}

#[test]
fn memory_is_a_number_of_mebibytes_or_has_a_suffix() {
    let kib = |text: &str| text.parse::<Memory>().map(Memory::kib);
    assert_eq!(kib("256"), Ok(256 << 10));
    assert_eq!(kib("256M"), Ok(256 << 10));
    assert_eq!(kib("65536k"), Ok(64 << 10));
    assert_eq!(kib("4G"), Ok(4 << 20));
    for text in ["", "M", "-1", "+1", "1.5G", "1T", "1GB", " 1", "ä"] {
        assert!(kib(text).unwrap_err().contains("suffix"), "{text}");
    }
    for text in [
        "18446744073709551616",
        "17592186044416G",
        "18014398509481984K",
    ] {
        assert!(kib(text).unwrap_err().contains("64 bits"), "{text}");
    }
}

#[test]
fn a_message_of_clap_is_one_line_with_its_tips() {
    let message = |arguments: &[&str]| {
        let error = Cli::try_parse_from([&["run-qemu.sh"], arguments].concat()).unwrap_err();
        one_line(&error.to_string())
    };
    assert_eq!(
        message(&["--screenshto", "x"]),
        "unexpected argument '--screenshto' found; a similar argument exists: '--screenshot'; \
         to pass '--screenshto' as a value, use '-- --screenshto' (--help says more)"
    );
    assert_eq!(
        message(&["image"]),
        "the following required arguments were not provided: <FILE> (--help says more)"
    );
}

#[test]
fn arguments_for_qemu_follow_two_dashes() {
    let qemu = |arguments: &[&str]| {
        let cli = Cli::try_parse_from([&["run-qemu.sh"], arguments].concat()).unwrap();
        match cli.command {
            Some(Command::Test(options)) => (options.filter, options.machine.qemu),
            _ => (None, cli.run.machine.qemu),
        }
    };
    let card: [OsString; 2] = ["-device".into(), "e1000".into()];
    assert_eq!(qemu(&["--", "-device", "e1000"]), (None, card.to_vec()));
    assert_eq!(qemu(&["--uefi", "--", "-device", "e1000"]).1, card);
    let (filter, words) = qemu(&["test", "grow::", "--", "-device", "e1000"]);
    assert_eq!((filter.as_deref(), &words[..]), (Some("grow::"), &card[..]));
    assert_eq!(
        qemu(&["test", "--", "-device", "e1000"]),
        (None, card.to_vec())
    );
    assert!(Cli::try_parse_from(["run-qemu.sh", "-device", "e1000"]).is_err());
}

#[test]
fn each_firmware_has_its_least_memory() {
    let check = |arguments: &[&str]| {
        let cli = Cli::try_parse_from([&["run-qemu.sh"], arguments].concat()).unwrap();
        cli.run.machine.check()
    };
    assert!(check(&["--memory", "48M"]).is_ok());
    assert!(check(&["--uefi", "--memory", "64M"]).is_ok());
    let why = |arguments| check(arguments).unwrap_err().to_string();
    assert!(
        why(&["--memory", "49151K"])
            .contains("49151 KiB of memory is too little to boot under BIOS")
    );
    assert!(why(&["--uefi", "--memory", "63"]).contains("give it 64 MiB or more"));
    assert!(why(&["--memory", "0"]).starts_with("0 MiB of memory"));
}

fn machine(arguments: &[&str]) -> MachineOptions {
    let cli = Cli::try_parse_from([&["run-qemu.sh"], arguments].concat()).unwrap();
    cli.run.machine
}

#[test]
fn a_kernel_that_does_not_fit_into_memory_is_refused() {
    let check = |arguments: &[&str], image, zeroed| {
        machine(arguments)
            .check_room(image << 20, zeroed << 20)
            .map_err(|failure| (failure.status(), failure.to_string()))
    };
    assert_eq!(check(&["--memory", "48M"], 5, 1), Ok(()));
    assert_eq!(check(&["--uefi", "--memory", "64M"], 5, 1), Ok(()));
    assert_eq!(check(&["--memory", "75M"], 16, 39), Ok(()));
    let (status, line) = check(&["--memory", "64M"], 16, 39).unwrap_err();
    assert_eq!(status, 2);
    assert_eq!(
        line,
        "64 MiB of memory is too little: image and variables of this kernel take 55 MiB; \
         under BIOS, give it --memory 75M or more"
    );
    let (_, line) = check(&["--uefi"], 16, 300).unwrap_err();
    assert!(line.contains("under UEFI, give it --memory 362M"), "{line}");
    assert!(check(&[], u64::MAX >> 20, u64::MAX >> 20).is_err());
}

#[test]
fn failures_say_what_to_try_on_the_machine() {
    let timed_out = || Failure::timed_out("sign of life", Duration::from_secs(60));
    let kvm = machine(&["--accel", "kvm"]).explain(timed_out());
    assert_eq!(
        kvm.to_string(),
        "timed out: no sign of life within 60 s; try --accel tcg"
    );
    let tcg = machine(&[]).explain(timed_out()).to_string();
    assert!(tcg.ends_with("within 60 s"), "{tcg}");
    let qemu = Failure::Qemu {
        status: Default::default(),
        message: "unable to find CPU model 'nope'".into(),
    };
    let line = machine(&["--cpu", "nope"]).explain(qemu).to_string();
    assert!(
        line.ends_with("'nope'; `qemu-system-x86_64 -cpu help` lists all models"),
        "{line}"
    );
}

#[test]
fn a_gdb_port_in_use_is_refused_before_a_build() {
    // If this fails, another process uses the port, and the test is valid too.
    let _listener = TcpListener::bind(gdb::ADDRESS);
    let cli = Cli::try_parse_from(["run-qemu.sh", "--gdb"]).unwrap();
    let why = cli.run.machine.check().unwrap_err().to_string();
    assert!(
        why.contains("127.0.0.1:1234") && why.contains("end the program that uses it"),
        "{why}"
    );
}
