//! Tests of the repository's own rules: which file imports which, where `unsafe`, libc and atomics may occur and what justifies them, and which
//! words are banned. (Cargo.toml says which crate may use which.)

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use support::within;

callgate::test_support!();

/// The library: the package that users name, and the packages below it.
const LIBRARY: &[&str] =
    &["src", "crates/engine/src", "crates/manager/src", "crates/os/src", "crates/sandbox/src", "crates/transport/src"];

/// The only places with `unsafe`, apart from the attribute in `test_support!`.
const UNSAFE: &[&str] = &[
    "crates/os/src/",
    // Numbers of borrowers: a process-local word.
    "crates/engine/src/gate.rs",
    "crates/engine/src/stream_cell.rs",
    "crates/engine/src/streamed_service.rs",
    "crates/engine/src/trusted.rs",
    "crates/transport/src/archive.rs",
    "crates/transport/src/arena.rs",
    "crates/transport/src/copy_buffer.rs",
    "crates/transport/src/decoder.rs",
    "crates/transport/src/encode.rs",
    "crates/transport/src/frame_writer.rs",
    "crates/transport/src/portable.rs",
    "crates/transport/src/reply/archived.rs",
    "crates/transport/src/reply/trusted.rs",
    "crates/transport/src/reply/untrusted.rs",
    "crates/transport/src/request.rs",
    "crates/transport/src/scratch.rs",
    "crates/transport/src/segment.rs",
    "crates/transport/src/shared_box/bytes.rs",
    "crates/transport/src/validator.rs",
    "crates/transport/src/validator/root_type.rs",
    "crates/transport/src/validator/validate.rs",
    "crates/transport/src/viewable.rs",
    "crates/transport/src/written_frame.rs",
    "src/child.rs",
    "src/codegen.rs",
    "src/trust_child.rs",
];

/// The only places that name libc.
const LIBC: &[&str] = &["crates/os/src/", "crates/sandbox/src/seccomp.rs", "crates/sandbox/src/seccomp/lists.rs"];

/// The only places that name `std::sync::atomic` directly instead of using `callgate_os::sync`.
const ATOMICS: &[&str] = &[
    "crates/os/src/",
    // Numbers for threads, chains and borrowers: process-local words.
    "crates/engine/src/gate.rs",
    "crates/engine/src/nest.rs",
    // Which thread wrote a child's last words: process-local words.
    "crates/engine/src/last_words.rs",
    // When the watcher must next look for idle memory: a process-local word.
    "crates/engine/src/reclaim.rs",
    // Counters of tests that do not run under loom.
    "crates/engine/src/pair/tests.rs",
    // Counters and numbers of callbacks: process-local words.
    "crates/manager/src/",
    // Whether a frame has named a block: a process-local word.
    "crates/transport/src/shared_box/bytes.rs",
    // Numbers for names: a process-local word.
    "crates/transport/src/backing/named.rs",
    // Whether `init` was called: a process-local word.
    "src/bridge/entry.rs",
    // What libraries started before `main`: process-local words.
    "src/child.rs",
];

/// Words that CONTRIBUTING replaces by others.
const BANNED: &[&str] = &["stub", "stubs", "server", "servers"];

/// Phrases in which a banned word is someone else's term, or is the subject of the ban.
const QUOTED: &[&str] = &["a fork server", "Never stub or server."];

// ---- the rules -----------------------------------------------------------------------------------------------------

#[test]
fn unsafe_stands_in_few_files() {
    check("unsafe_stands_in_few_files", |source, breaches| {
        if source.is_in(UNSAFE) {
            return;
        }
        for (number, line) in source.code_lines().filter(|(_, line)| words(line).any(|word| word == "unsafe")) {
            let is_macro = source.path == "src/lib.rs" && line.trim() == "#[unsafe(link_section = )]";
            breaches.add_if(!is_macro, source, number, "`unsafe` outside the files that may have it");
        }
    });
}

#[test]
fn libc_stands_in_few_files() {
    check("libc_stands_in_few_files", |source, breaches| {
        for (number, line) in source.code_lines() {
            let named = words(line).any(|word| word == "libc");
            breaches.add_if(named && !source.is_in(LIBC), source, number, "libc outside the files that may name it");
        }
    });
}

#[test]
fn atomics_come_from_sync() {
    check("atomics_come_from_sync", |source, breaches| {
        // Unit tests that loom does not run come last in a file, and may use any atomics.
        let library = source.code_lines().take_while(|(_, line)| !line.contains("cfg(all(test, not(loom)))"));
        for (number, line) in library {
            let named = line.contains("sync::atomic");
            breaches.add_if(named && !source.is_in(ATOMICS), source, number, "atomics that loom cannot replace");
        }
    });
}

/// A reader of a file must first read its imports; in a circle there is no first file.
#[test]
fn imports_go_in_no_circle() {
    within(60, "imports_go_in_no_circle", || {
        let (mut files, mut imports) = (0, 0);
        for dir in LIBRARY {
            let graph = graph_of(dir);
            files += graph.len();
            imports += graph.values().map(BTreeSet::len).sum::<usize>();
            assert_eq!(circle_in(&graph), None, "{dir}");
        }
        assert!(files > 100 && imports > 300, "the imports are not found: {imports} of {files} files");
    });
}

/// `lib.rs` lists the files so that each builds only on those above it.
#[test]
fn a_file_imports_only_files_above_it_in_lib_rs() {
    within(60, "a_file_imports_only_files_above_it_in_lib_rs", || {
        let mut breaches = Vec::new();
        for dir in LIBRARY {
            let listed = code_of(&std::fs::read_to_string(root().join(dir).join("lib.rs")).expect("lib.rs"));
            let order: Vec<_> = listed.lines().filter_map(module_in).collect();
            assert!(order.len() > 3, "the list of {dir}/lib.rs is not found");
            let place = |path: &str| order.iter().position(|name| path.split("::").next() == Some(name));
            for (file, imported) in &graph_of(dir) {
                let wrong = imported.iter().filter(|imported| place(imported) > place(file));
                breaches.extend(wrong.map(|imported| format!("{dir}: {file} imports {imported}")));
            }
        }
        assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
    });
}

#[test]
fn a_circle_is_found() {
    let graph = |edges: &[(&str, &[&str])]| -> Graph {
        edges.iter().map(|(from, to)| ((*from).into(), to.iter().map(ToString::to_string).collect())).collect()
    };
    assert_eq!(circle_in(&graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    let found = circle_in(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["d", "b"]), ("d", &[])]));
    assert_eq!(found, Some(vec!["b".into(), "c".into(), "b".into()]));
    let source = Source {
        path: "crates/engine/src/link.rs".into(),
        text: String::new(),
        code: "use crate::sys::{self, poll::{A, B as C}, socket};\nuse super::peer::Peer; pub(in crate::bridge) fn f()"
            .into(),
    };
    let found = source.imported_paths("bridge::link");
    let expected = ["bridge::peer::Peer", "sys::poll::A", "sys::poll::B", "sys::self", "sys::socket"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn every_exception_is_still_one() {
    within(60, "every_exception_is_still_one", || {
        for (places, exceptional) in [(UNSAFE, "unsafe"), (LIBC, "libc"), (ATOMICS, "atomic")] {
            for place in places {
                let path = root().join(place);
                let files = if path.is_dir() { files_of(&path, "rs", Depth::All) } else { vec![path] };
                let has_one = files.iter().any(|file| words(&Source::read(file).code).any(|word| word == exceptional));
                assert!(has_one, "{place} has no `{exceptional}`");
            }
        }
    });
}

#[test]
fn every_unsafe_operation_says_why_it_is_safe() {
    check("every_unsafe_operation_says_why_it_is_safe", |source, breaches| {
        for (number, line) in source.code_lines() {
            let is_operation = ["unsafe {", "unsafe impl"].iter().any(|operation| line.contains(operation));
            let what = "no `// SAFETY:` just above";
            breaches.add_if(is_operation && !source.is_justified(number), source, number, what);
        }
    });
}

/// The audit in docs/SOUNDNESS.md has rows for every file with `unsafe` in its code, and their counts add up to the occurrences there.
#[test]
fn the_soundness_audit_counts_every_unsafe() {
    within(60, "the_soundness_audit_counts_every_unsafe", || {
        let soundness = std::fs::read_to_string(root().join("docs/SOUNDNESS.md")).expect("docs/SOUNDNESS.md");
        let (_, audit) = soundness.split_once("## Soundness audit").expect("the section");
        let audit = audit.split("\n#").next().expect("what comes before the next heading");
        let mut stated = BTreeMap::<String, usize>::new();
        for row in audit.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split(" | ").collect();
            let file = cells[0].trim_matches(['|', ' ', '`']);
            *stated.entry(file.to_owned()).or_default() += cells[1].parse::<usize>().expect(row);
        }
        let others = ["cli", "compare", "macros", "suite", "testkit"].map(|name| format!("crates/{name}/src"));
        let dirs = LIBRARY.iter().copied().chain(others.iter().map(String::as_str));
        let files = dirs.flat_map(|dir| files_of(&root().join(dir), "rs", Depth::All));
        let sources: Vec<_> = files.map(|path| Source::read(&path)).collect();
        let mut counted: BTreeMap<_, _> =
            sources.iter().map(|source| (source.path.clone(), source.unsafes())).collect();
        // The macro's tests hold `unsafe` in code to expand or refuse.
        counted.retain(|path, count| *count > 0 && !path.starts_with("crates/macros/src/tests"));
        assert!(counted.len() > 15, "the sources are not where they were");
        assert_eq!(stated, counted, "what the audit states, and what is there");
    });
}

/// Every constant of crates/transport/src/bounds.rs has a row in the table of bounds. Every row names a constant, there or in crates/os.
#[test]
fn the_table_of_bounds_lists_every_constant() {
    within(60, "the_table_of_bounds_lists_every_constant", || {
        let text = std::fs::read_to_string(root().join("crates/transport/src/bounds.rs")).expect("the bounds");
        let (outer, hub) = text.split_once("pub mod hub {").expect("the bounds of a hub");
        let constants = |part: &str, module: &str| -> Vec<String> {
            let names = part.lines().filter_map(|line| line.trim_start().strip_prefix("pub const ")?.split(':').next());
            names.map(|name| format!("{module}{name}")).collect()
        };
        let there: BTreeSet<_> = [constants(outer, ""), constants(hub, "hub::")].concat().into_iter().collect();
        let cells = text.lines().filter_map(|line| line.strip_prefix("//! | ")?.split(" | ").nth(2));
        let (os, listed): (BTreeSet<_>, BTreeSet<_>) = cells
            .filter_map(|cell| Some(cell.trim_start_matches("[").strip_prefix("`")?.split('`').next()?.to_owned()))
            .partition(|name| name.starts_with("callgate_os::"));
        assert!(there.len() > 40, "the constants are not where they were");
        assert_eq!(listed, there, "what the table lists, and what is there");
        for name in os {
            let path: Vec<&str> = name.split("::").collect();
            let file = std::fs::read_to_string(root().join(format!("crates/os/src/{}.rs", path[1]))).expect("the file");
            assert!(file.contains(&format!("const {}:", path[2])), "there is no {name}");
        }
    });
}

#[test]
fn every_file_opens_with_what_it_is() {
    check("every_file_opens_with_what_it_is", |source, breaches| {
        breaches.add_if(!source.text.starts_with("//! "), source, 1, "does not open with `//! `");
    });
}

#[test]
fn nothing_is_left_to_do() {
    check("nothing_is_left_to_do", |source, breaches| {
        for (number, line) in source.code_lines() {
            let left = ["todo!", "unimplemented!", "dbg!"].iter().any(|macro_call| line.contains(macro_call));
            breaches.add_if(left, source, number, "unfinished");
        }
    });
}

#[test]
fn one_word_per_thing() {
    within(60, "one_word_per_thing", || {
        let documents = files_of(&root(), "md", Depth::Here);
        let code = ["src", "crates", "examples", "benches"].map(|dir| files_of(&root().join(dir), "rs", Depth::All));
        let mut breaches = Breaches::default();
        for path in documents.into_iter().chain(code.into_iter().flatten()) {
            let source = Source::read(&path);
            // This crate uses other projects' interfaces, in their words.
            if source.is_in(&["crates/compare/src/"]) {
                continue;
            }
            let text = QUOTED.iter().fold(source.text.clone(), |text, quote| text.replace(quote, ""));
            for (number, line) in numbered(&text) {
                let banned = words(line).any(|word| BANNED.contains(&word.to_lowercase().as_str()));
                breaches.add_if(banned, &source, number, "a word that CONTRIBUTING bans");
            }
        }
        breaches.none();
    });
}

/// The name that two types may share, and their files: the manager's error holds the bridge's.
const TWICE: (&str, [&str; 2]) = ("CallError", ["crates/manager/src/call_errors.rs", "crates/transport/src/error.rs"]);

/// Looks at every crate's sources, and at types that stand in no inline module.
#[test]
fn a_type_name_has_one_meaning() {
    within(60, "a_type_name_has_one_meaning", || {
        let mut found = BTreeMap::<String, BTreeSet<String>>::new();
        for path in ["src", "crates"].iter().flat_map(|dir| files_of(&root().join(dir), "rs", Depth::All)) {
            let source = Source::read(&path);
            if source.path.contains("src/") {
                for name in source.code_lines().filter_map(|(_, line)| type_defined_in(line)) {
                    found.entry(name.to_owned()).or_default().insert(source.path.clone());
                }
            }
        }
        assert!(found.len() > 500, "only {} types are found", found.len());
        found.retain(|_, files| files.len() > 1);
        let allowed = BTreeMap::from([(TWICE.0.into(), TWICE.1.map(String::from).into())]);
        assert_eq!(found, allowed, "types of one name, and those that may be");
    });
}

/// The name of the type or trait that begins on this line, unless the line is indented.
fn type_defined_in(line: &str) -> Option<&str> {
    let (_, visible) = line.split_once(") ").filter(|_| line.starts_with("pub(")).unwrap_or(("", line));
    let item = visible.strip_prefix("pub ").unwrap_or(visible);
    let item = item.strip_prefix("unsafe ").unwrap_or(item);
    let name = ["struct ", "enum ", "trait ", "union ", "type "].iter().find_map(|kind| item.strip_prefix(kind))?;
    words(name).next()
}

/// The rows of the table of faults in docs/RELIABILITY.md.
const FAULTS: usize = 48;

/// Every fault has tests named by its number, and the table lists exactly the existing tests.
#[test]
fn every_fault_has_tests_and_the_table_lists_them() {
    within(60, "every_fault_has_tests_and_the_table_lists_them", || {
        let mut tests: Vec<_> = ["src", "tests", "crates"]
            .into_iter()
            .flat_map(|dir| files_of(&root().join(dir), "rs", Depth::All))
            .flat_map(|path| faults_of(&Source::read(&path)))
            .collect();
        tests.sort();
        let table = std::fs::read_to_string(root().join("docs/RELIABILITY.md")).expect("the table of faults");
        let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
        let mut listed: Vec<_> = rows
            .filter_map(|row| Some((row.split(' ').next()?.parse::<usize>().ok()?, row)))
            .flat_map(|(number, row)| {
                row.split('`').filter(|name| name.contains("::fault_")).map(move |name| (number, name))
            })
            .map(|(number, name)| (number, name.to_owned()))
            .collect();
        listed.sort();
        assert_eq!(listed, tests, "what docs/RELIABILITY.md lists, and what there is");
        for fault in 1..=FAULTS {
            assert!(tests.iter().any(|(number, _)| *number == fault), "no test of fault {fault}");
        }
    });
}

/// Every test that the documents name exists.
#[test]
fn every_test_that_the_tables_name_is_there() {
    within(60, "every_test_that_the_tables_name_is_there", || {
        let tables = ["RELIABILITY", "THREATS", "SOUNDNESS", "TESTING"]
            .map(|name| std::fs::read_to_string(root().join(format!("docs/{name}.md"))).expect("the tables"))
            .concat();
        let named = tables.split('`').filter_map(|name| name.split_once(".rs::"));
        let is_there = |(file, test): &(&str, &str)| {
            let text = std::fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
            text.contains(&format!("fn {test}("))
        };
        let (there, missing): (Vec<_>, Vec<_>) = named.partition(is_there);
        assert!(there.len() > 100 && missing.is_empty(), "{} are there, and not {missing:?}", there.len());
    });
}

/// The fault tests in a file, each as its fault's number and `file::name`.
fn faults_of(source: &Source) -> Vec<(usize, String)> {
    let names = source.text.lines().filter_map(|line| line.trim_start().strip_prefix("fn fault_"));
    let names = names.filter_map(|line| line.split('(').next());
    let number = |name: &str| name.get(..2)?.parse().ok();
    names.filter_map(|name| Some((number(name)?, format!("{}::fault_{name}", source.path)))).collect()
}

// ---- the helper ----------------------------------------------------------------------------------------------------

/// Applies `rule` to every source file of the library, and fails with all breaches.
fn check(name: &str, rule: impl Fn(&Source, &mut Breaches)) {
    within(60, name, || {
        let mut breaches = Breaches::default();
        for dir in LIBRARY {
            let sources = files_of(&root().join(dir), "rs", Depth::All);
            assert!(sources.len() > 5, "the sources of {dir} are not where they were");
            sources.iter().for_each(|path| rule(&Source::read(path), &mut breaches));
        }
        breaches.none();
    });
}

#[derive(Default)]
struct Breaches(String);

impl Breaches {
    fn add(&mut self, source: &Source, number: usize, what: &str) {
        let line = source.text.lines().nth(number - 1).unwrap_or_default().trim();
        writeln!(self.0, "{}:{number}: {what}: {line}", source.path).expect("a string takes all");
    }

    fn add_if(&mut self, condition: bool, source: &Source, number: usize, what: &str) {
        if condition {
            self.add(source, number, what);
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

#[derive(Clone, Copy, PartialEq)]
enum Depth {
    Here,
    All,
}

/// The files below `dir` that end in `.extension`, sorted.
fn files_of(dir: &Path, extension: &str, depth: Depth) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() && depth == Depth::All {
            files.extend(files_of(&path, extension, depth));
        } else if path.extension().is_some_and(|ending| ending == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The imports of each module.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The imports among the modules of the crate whose sources are in `dir`.
fn graph_of(dir: &str) -> Graph {
    let sources = files_of(&root().join(dir), "rs", Depth::All);
    let sources: Vec<_> = sources.iter().map(|path| Source::read(path)).collect();
    let modules: BTreeMap<_, _> = sources.iter().filter_map(|source| Some((source.module_path()?, source))).collect();
    let imports = |source: &Source, path: &str| {
        let imported = source.imported_paths(path).into_iter().filter_map(|path| module_of(&path, &modules));
        imported.filter(|imported| imported != path).collect::<BTreeSet<_>>()
    };
    modules.iter().map(|(path, source)| (path.clone(), imports(source, path))).collect()
}

/// The name of the module that a line of `lib.rs` declares.
fn module_in(line: &str) -> Option<String> {
    let mut words = words(line).skip_while(|word| ["pub", "crate"].contains(word));
    (words.next() == Some("mod") && line.ends_with(';')).then(|| words.next().map(|name| name.replace("__", "")))?
}

/// A circle, from its first module back to itself; `None` if there is none.
fn circle_in(graph: &Graph) -> Option<Vec<String>> {
    /// Follows the imports from the end of `way` into all modules that are not yet `done`.
    fn follow(graph: &Graph, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        let at = way.last()?.clone();
        for next in graph.get(&at).into_iter().flatten() {
            if let Some(begin) = way.iter().position(|before| before == next) {
                return Some(way[begin..].iter().chain([next]).cloned().collect());
            }
            if !done.contains(next) {
                way.push(next.clone());
                let found = follow(graph, way, done);
                way.pop();
                if found.is_some() {
                    return found;
                }
            }
        }
        done.insert(at);
        None
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| follow(graph, &mut vec![start.clone()], &mut done))
}

/// The module of the crate that `path` leads into.
fn module_of<V>(path: &str, modules: &BTreeMap<String, V>) -> Option<String> {
    let path = path.replace("__codegen", "codegen");
    let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end]).filter(|path| modules.contains_key(*path)).last().map(str::to_owned)
}

/// Adds the paths of the import tree that `text` begins with, such as `a::{b, c::d}`, each prefixed by `before`. Returns the tree's length.
fn add_paths(text: &str, before: &str, paths: &mut BTreeSet<String>) -> usize {
    if !text.starts_with('{') {
        let name = text.len() - text.trim_start_matches(|char: char| char.is_alphanumeric() || char == '_').len();
        let path = format!("{before}{}", &text[..name]);
        if text[name..].starts_with("::") {
            return name + 2 + add_paths(&text[name + 2..], &format!("{path}::"), paths);
        }
        paths.insert(path);
        return name;
    }
    let mut at = 1;
    while !text[at..].starts_with('}') && at < text.len() {
        let space = text[at..].len() - text[at..].trim_start().len();
        at += space + add_paths(&text[at + space..], before, paths);
        // Skip a new name after `as`.
        at += text[at..].find([',', '}']).unwrap_or(text.len() - at);
        at += usize::from(text[at..].starts_with(','));
        at += text[at..].len() - text[at..].trim_start().len();
    }
    at + 1
}

/// A file's text, with and without comments and literals.
struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let path = path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned();
        Source { path, code: code_of(&text), text }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || place.ends_with('/') && self.path.starts_with(place))
    }

    /// The number of `unsafe` in its code.
    fn unsafes(&self) -> usize {
        self.code_lines().flat_map(|(_, line)| words(line)).filter(|word| *word == "unsafe").count()
    }

    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.code)
    }

    /// The file's own module; `None` for lib.rs and for test files.
    fn module_path(&self) -> Option<String> {
        let (_, path) = self.path.split_once("src/")?;
        let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let is_of_tests = path.split('/').any(|part| part == "tests");
        (path != "lib" && !is_of_tests).then(|| path.replace('/', "::"))
    }

    /// All paths from `crate` or `super` that the file, as module `own`, names outside its tests.
    fn imported_paths(&self, own: &str) -> BTreeSet<String> {
        let code = self.code.split("#[cfg(all(test").next().unwrap_or_default();
        let mut paths = BTreeSet::new();
        let parent = own.rsplit_once("::").map_or(String::new(), |(parent, _)| format!("{parent}::"));
        for (root, before) in [("crate::", ""), ("super::", &*parent)] {
            for (at, _) in code.match_indices(root) {
                let is_visibility = code[..at].ends_with("(in ");
                // A macro's own crate, as seen from outside.
                let is_of_macro = code[..at].ends_with('$') || code[..at].ends_with("super::");
                if !is_visibility && !is_of_macro {
                    add_paths(&code[at + root.len()..], before, &mut paths);
                }
            }
        }
        paths.remove("");
        paths
    }

    /// Whether a comment with `SAFETY:` ends right above the statement that contains line `number`.
    fn is_justified(&self, number: usize) -> bool {
        let (lines, code): (Vec<_>, Vec<_>) = (self.text.lines().collect(), self.code.lines().collect());
        let mut above = number - 1;
        let is_comment = |line: usize| lines[line].trim_start().starts_with("//");
        // Go up to the beginning of the statement, the item or the match arm.
        while above > 0 && !is_comment(above - 1) && !code[above - 1].trim_end().ends_with([';', '{', '}', ',']) {
            above -= 1;
        }
        (0..above).rev().take_while(|&line| is_comment(line)).any(|line| lines[line].contains("// SAFETY: "))
    }
}

/// Lines, counted from 1.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

/// The words of `text`, split at all characters that cannot be part of a name; `a_b` is one word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').filter(|word| !word.is_empty())
}

/// The text without comments and without the contents of literals; line numbers stay the same.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let skipped = comment_len(rest).or_else(|| literal_len(rest, code.chars().next_back()));
        let len = skipped.unwrap_or(char.len_utf8());
        match skipped {
            Some(_) => code.extend(rest[..len].chars().filter(|&char| char == '\n')),
            None => code.push(char),
        }
        rest = &rest[len..];
    }
    code
}

/// The length of the comment that `text` begins with.
fn comment_len(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let mut depth = 0usize;
    text.starts_with("/*").then(|| {
        for at in 0..text.len() {
            match text.as_bytes()[at..] {
                [b'/', b'*', ..] => depth += 1,
                [b'*', b'/', ..] if depth == 1 => return at + 2,
                [b'*', b'/', ..] => depth -= 1,
                _ => {}
            }
        }
        text.len()
    })
}

/// The length of the string or character literal that `text` begins with, without its prefix.
fn literal_len(text: &str, before: Option<char>) -> Option<usize> {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let hashes = text.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
    if let Some(hashes) = hashes.filter(|&hashes| text[1 + hashes..].starts_with('"')) {
        // A raw string, unless the `r` ends a longer word; the prefix `br` does not.
        if before.is_none_or(|before| !is_word(before) || before == 'b') {
            let (open, close) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
            return text[open..].find(&close).map(|end| open + end + close.len());
        }
    }
    if text.starts_with('"') {
        return Some(closed(text, '"'));
    }
    // `'a` is a lifetime, `'a'` a character.
    let mut chars = text.strip_prefix('\'')?.chars();
    let (first, second) = (chars.next()?, chars.next()?);
    (first == '\\' || second == '\'').then(|| closed(text, '\''))
}

/// The length up to and including the next `quote` that no backslash escapes.
fn closed(text: &str, quote: char) -> usize {
    let mut protected = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if protected => protected = false,
            '\\' => protected = true,
            _ if char == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn comments_and_literals_are_not_code() {
    within(60, "comments_and_literals_are_not_code", || {
        for (text, code) in [
            ("a // b\nc", "a \nc"),
            ("a /* b /* c\n */ d */ e", "a \n e"),
            (r#"a "b \" c // d" e"#, "a  e"),
            ("a r#\"b \" c\"# d", "a  d"),
            (r"f::<'a>('\'', 'x', b'y')", "f::<'a>(, , b)"),
            (r#"writer"x""#, "writer"),
        ] {
            assert_eq!(code_of(text), code, "{text}");
        }
    });
}
