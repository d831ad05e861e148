//! Describes the machine on which a report was measured.

use callgate_suite::{Clock, pin};
use std::fs;

/// Labels and values for the report.
pub fn describe(quick: bool) -> Vec<(String, String)> {
    let mut lines = vec![
        ("CPU", format!("{}, {}", cpu_model(), cpus())),
        ("kernel", kernel()),
        ("clock", format!("{}, {:.0} ns a reading", clock_source().unwrap_or("unknown".into()), Clock::new().cost())),
        (
            "callgate",
            format!("{}{}", env!("CARGO_PKG_VERSION"), if cfg!(debug_assertions) { ", debug build" } else { "" }),
        ),
    ];
    if let Some(hypervisor) = hypervisor() {
        lines.insert(1, ("runs in", hypervisor));
    }
    if quick {
        lines
            .push(("measured", "briefly (--quick): these figures show that everything works, and nothing more".into()));
    }
    lines.into_iter().map(|(label, value)| (label.to_owned(), value)).collect()
}

/// The trimmed contents of a small kernel file; `None` if it is missing, empty or not readable.
pub fn line_of(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The kernel, such as `Linux 6.18`. The rest of the release says who built it, which does not matter here.
pub fn kernel() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), version_of(&name.release().to_string_lossy()))
}

/// The major and minor version of a release.
fn version_of(release: &str) -> String {
    let numbers = release.split(|char: char| !char.is_ascii_digit()).take(2);
    numbers.collect::<Vec<_>>().join(".")
}

pub fn clock_source() -> Option<String> {
    line_of("/sys/devices/system/clocksource/clocksource0/current_clocksource")
}

/// Describes the virtual machine, if the kernel reports one.
pub fn hypervisor() -> Option<String> {
    let is_guest = cpuinfo("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let vendor = line_of("/sys/hypervisor/type").or_else(|| line_of("/sys/class/dmi/id/sys_vendor"));
    is_guest.then(|| vendor.map_or("a virtual machine".to_owned(), |vendor| format!("a virtual machine ({vendor})")))
}

fn cpu_model() -> String {
    // Kernels on Arm give no name.
    cpuinfo("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn cpuinfo(label: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == label).map(|(_, value)| value.trim().to_owned())
}

fn cpus() -> String {
    match pin::allowed().len() {
        1 => "1 CPU allowed".into(),
        cpus => format!("{cpus} CPUs allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_cut_after_its_numbers() {
        assert_eq!(version_of("6.18.2-generic"), "6.18");
        assert_eq!(version_of("5.9"), "5.9");
        assert_eq!(version_of("6.1+somebody"), "6.1");
    }
}
