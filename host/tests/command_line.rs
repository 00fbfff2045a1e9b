//! The binary: exit codes, `--check`, reload on SIGHUP and end on SIGTERM.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-host"));
    command.arg("--config").arg(config);
    command
}

fn check(text: &str) -> io::Result<(Output, String)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.yaml");
    fs::write(&file, text)?;
    let output = command(&file).arg("--check").output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output, stderr))
}

#[test]
fn a_good_configuration_is_0_and_a_bad_one_is_2_with_every_problem_at_its_line() {
    let (output, _) = check("relay: {licensedHosts: [{name: a, address: 10.0.0.1}]}\n").expect("run");
    assert_eq!(output.status.code(), Some(0));
    let (output, stderr) =
        check("relay:\n  licensedHosts:\n    - {name: a, adress: 10.0.0.1}\nlisten: 5\nlog: {filter: '=='}\n")
            .expect("run");
    assert_eq!(output.status.code(), Some(2));
    for expected in [
        "config.yaml:3:17",
        "did you mean `address`?",
        "config.yaml:4:9",
        "config.yaml:5:7",
        "3 problems in",
    ] {
        assert!(stderr.contains(expected), "{expected} is missing in:\n{stderr}");
    }
}

#[test]
fn a_file_that_cannot_be_read_and_a_wrong_flag_are_2() {
    let output = command(Path::new("/nonexistent/config.yaml")).output().expect("run");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/config.yaml"));
    let output = Command::new(env!("CARGO_BIN_EXE_kms-host"))
        .arg("--no-such-flag")
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_address_that_is_taken_is_1_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("config.yaml");
    let address = taken.local_addr().expect("address");
    let text = format!("listen: ['{address}']\nrelay: {{licensedHosts: [{{name: a, address: 10.0.0.1}}]}}\n");
    fs::write(&file, text).expect("written");
    let output = command(&file).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address.to_string()));
}

fn signal(child: &Child, name: &str) -> io::Result<bool> {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status()?;
    Ok(status.success())
}

#[test]
fn sighup_reloads_at_once_and_sigterm_ends_with_0() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("config.yaml");
    let config = |host: &str| {
        format!(
            "listen: ['127.0.0.1:0']\nadmin: {{listen: '127.0.0.1:0'}}\nlog: {{format: json}}\n\
             relay: {{licensedHosts: [{{name: a, address: {host}}}], health: {{probeInterval: 0s}}}}\n"
        )
    };
    fs::write(&file, config("127.0.0.1")).expect("written");
    let mut child = command(&file).stderr(Stdio::piped()).spawn().expect("run");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr"))
        .lines()
        .map(|line| line.expect("a line"));
    let serving = lines.find(|line| line.contains("serving clients")).expect("it serves");
    let serving: serde_json::Value = serde_json::from_str(&serving).expect("JSON");
    let address = serving["server.addr"].as_str().expect("the address").to_owned();
    assert!(TcpStream::connect(&address).is_ok());
    fs::write(&file, config("127.0.0.2")).expect("written");
    assert!(signal(&child, "-HUP").expect("kill"));
    lines
        .find(|line| line.contains("changed configuration in use"))
        .expect("it reloads");
    assert!(signal(&child, "-TERM").expect("kill"));
    lines.find(|line| line.contains("draining")).expect("it drains");
    let begun = Instant::now();
    let code = loop {
        match child.try_wait().expect("wait") {
            Some(status) => break status.code(),
            None if begun.elapsed() > Duration::from_secs(20) => panic!("it does not end"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!(code, Some(0));
}
