//! Compose files become the services of a project: variables filled in, files merged, `include` and
//! `extends` followed. Pure: files are asked for by their path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use mayfly_core::yaml::Mark;

use super::faults::{ComposeFaults, Spot, SpotMessage};
use super::merge::{as_mapping, merged};
use super::tree::{self, ComposeNode, ComposeValue, KeyedNode, find};
use super::variables::{Interpolation, Variables, dotenv, named, tag_part};

/// Most files of one project.
const FILES: usize = 100;
/// Most values that `extends` and merged files may copy: a short file can extend a long one often.
const COPIES: usize = 500_000;
/// Most services of one file: an environment names no more.
const SERVICES: usize = 1000;
/// Most services that can extend one another in a row.
const LINE: usize = 32;
/// The keys at the top of a compose file that say something of services, or that do no harm.
const TOP: [&str; 8] = [
    "version", "name", "services", "networks", "volumes", "secrets", "configs", "include",
];

/// What the compose files are called that compose finds by itself, before `.yml` or `.yaml`.
const DEFAULTS: [&str; 2] = ["docker-compose", "compose"];

/// Reads the text of a file; nothing if there is no such file, or why it cannot be read.
pub type ReadText<'r> = dyn Fn(&Path) -> Result<Option<String>, String> + 'r;

/// A service with all its keys.
#[derive(Debug, Clone)]
pub(super) struct RawService {
    pub(super) name: String,
    pub(super) spot: Spot,
    pub(super) keys: Vec<KeyedNode>,
}

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Project {
    pub(super) services: Vec<RawService>,
    /// The paths of the files, as they are shown.
    pub(super) files: Vec<String>,
    /// The directories that relative paths are seen from, by the position of the file.
    pub(super) bases: BTreeMap<usize, PathBuf>,
    pub(super) notes: Vec<SpotMessage>,
    /// The variables that apply, with those of `.env`.
    pub(super) variables: Variables,
    pub(super) interpolation: Interpolation,
}

/// A file that was read.
#[derive(Debug, Default)]
struct ComposeFile {
    services: Vec<RawService>,
    includes: Vec<ComposeNode>,
}

/// A file to read, and the directory that relative paths in it are seen from. All given files have
/// that of the first one; a file that is included or extended has its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct BasedFile {
    path: PathBuf,
    base: PathBuf,
}

struct Loader<'r> {
    read: &'r ReadText<'r>,
    shell: &'r Variables,
    /// The variables of the project, of which those of a directory's own `.env` are the last.
    variables: Variables,
    files: Vec<String>,
    bases: BTreeMap<usize, PathBuf>,
    loaded: BTreeMap<BasedFile, Rc<ComposeFile>>,
    /// The files whose services are in.
    included: BTreeSet<PathBuf>,
    notes: Vec<SpotMessage>,
    interpolation: Interpolation,
    copies: usize,
}

/// Reads the compose files, the later ones over the earlier ones.
///
/// `shell` has the variables of the shell, which come before those of the file `.env` beside the
/// first file, or of `env_file`.
pub(super) fn load(
    paths: &[PathBuf],
    env_file: Option<&Path>,
    shell: &Variables,
    read: &ReadText<'_>,
    faults: &mut ComposeFaults,
) -> Project {
    let mut loader = Loader {
        read,
        shell,
        variables: shell.clone(),
        files: Vec::new(),
        bases: BTreeMap::new(),
        loaded: BTreeMap::new(),
        included: BTreeSet::new(),
        notes: Vec::new(),
        interpolation: Interpolation::default(),
        copies: COPIES,
    };
    let directory = paths.first().map_or_else(PathBuf::new, |path| directory(path));
    loader.dotenv(env_file, &directory, faults);
    let mut services: Vec<RawService> = Vec::new();
    for path in paths {
        let file = BasedFile {
            path: path.clone(),
            base: directory.clone(),
        };
        let more = loader.file_and_includes(&file, &mut Vec::new(), faults);
        for service in more {
            if !loader.pay(size(&service), service.spot, faults) {
                break;
            }
            match services.iter_mut().find(|it| it.name == service.name) {
                Some(before) => {
                    before.keys = merged(std::mem::take(&mut before.keys), service.keys);
                }
                None => services.push(service),
            }
        }
    }
    if let [path] = paths {
        loader.note_override(path);
    }
    if services.is_empty() && faults.count() == 0 {
        let spot = Spot {
            file: 0,
            mark: Mark::START,
        };
        faults.add(
            spot,
            "services",
            "the file describes no service: write the services under `services`",
        );
    }
    Project {
        services,
        files: loader.files,
        bases: loader.bases,
        notes: loader.notes,
        variables: loader.variables,
        interpolation: loader.interpolation,
    }
}

impl Loader<'_> {
    fn dotenv(&mut self, env_file: Option<&Path>, directory: &Path, faults: &mut ComposeFaults) {
        let path = env_file.map_or_else(|| join(directory, ".env"), Path::to_owned);
        let file = self.files.len();
        let at = |line| Spot {
            file,
            mark: Mark { line, column: 1 },
        };
        match (self.read)(&path) {
            Ok(None) if env_file.is_none() => {}
            Ok(None) => {
                self.files.push(shown(&path));
                faults.add(at(1), "", "there is no such file");
            }
            Err(reason) => {
                self.files.push(shown(&path));
                faults.add(at(1), "", reason);
            }
            Ok(Some(text)) => match dotenv(&text, self.shell, &mut self.interpolation) {
                Ok(entries) => {
                    for (name, value) in entries {
                        if let (false, Some(value)) = (self.shell.contains_key(&name), value) {
                            self.variables.insert(name, value);
                        }
                    }
                }
                Err((line, reason)) => {
                    self.files.push(shown(&path));
                    faults.add(at(line), "", reason);
                }
            },
        }
    }

    /// Compose reads `docker-compose.override.yml` by itself, if no file is named.
    fn note_override(&mut self, path: &Path) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let Some(stem) = DEFAULTS.iter().find_map(|stem| name.strip_prefix(stem)) else {
            return;
        };
        let over = format!("{}.override{stem}", &name[..name.len() - stem.len()]);
        if !matches!((self.read)(&join(&directory(path), &over)), Ok(None)) {
            let message = format!(
                "compose also reads `{over}`, which is beside this file: to import it, too, name it after this file \
                 (`mayfly init`: with a second --compose)"
            );
            let spot = Spot {
                file: 0,
                mark: Mark::START,
            };
            self.notes.push(SpotMessage::new(spot, "", message));
        }
    }

    /// The services of a file and of those that it includes, each with what it extends.
    fn file_and_includes(
        &mut self,
        at: &BasedFile,
        line: &mut Vec<PathBuf>,
        faults: &mut ComposeFaults,
    ) -> Vec<RawService> {
        let Some(file) = self.file(at, None, faults) else {
            return Vec::new();
        };
        line.push(at.path.clone());
        let mut services = Vec::new();
        for include in &file.includes {
            for more in self.included(include, &at.base, line, faults) {
                if !services.iter().any(|it: &RawService| it.name == more.name) {
                    services.push(more);
                }
            }
        }
        line.pop();
        for service in &file.services {
            let name = service.name.clone();
            let Some(own) = self.extended(at, &name, &mut Vec::new(), service.spot, faults) else {
                continue;
            };
            // What includes a file may say more of its services.
            match services.iter_mut().find(|it| it.name == own.name) {
                Some(before) => {
                    if !self.pay(size(&own), own.spot, faults) {
                        break;
                    }
                    before.keys = merged(std::mem::take(&mut before.keys), own.keys);
                }
                None => services.push(own),
            }
        }
        services
    }

    /// The services of one entry of `include`.
    fn included(
        &mut self,
        include: &ComposeNode,
        from: &Path,
        line: &mut Vec<PathBuf>,
        faults: &mut ComposeFaults,
    ) -> Vec<RawService> {
        let pairs = include.pairs().unwrap_or_default();
        for pair in pairs {
            if pair.key != "path" {
                let message = "this key is not read: import the included file by itself, in its directory";
                faults.add(pair.spot, format!("include.{}", pair.key), message);
            }
        }
        let paths = include.get("path").unwrap_or(include).items();
        if paths.is_empty() {
            faults.add(include.spot, "include", "the path of a compose file is missing");
        }
        let mut services: Vec<RawService> = Vec::new();
        // The first path decides for all of them.
        let first = paths.first().and_then(ComposeNode::text).unwrap_or_default();
        let base = directory(&join(from, first));
        for node in paths {
            let Some(text) = node.text() else {
                faults.add(
                    node.spot,
                    "include",
                    format!("{} where there should be a path", node.kind()),
                );
                continue;
            };
            let path = join(from, text);
            if line.contains(&path) {
                faults.add(node.spot, "include", format!("`{text}` includes itself"));
                continue;
            }
            let file = BasedFile {
                path,
                base: base.clone(),
            };
            let is_read = self.file(&file, Some(node.spot), faults).is_some();
            if !is_read || !self.included.insert(file.path.clone()) {
                continue;
            }
            for service in self.file_and_includes(&file, line, faults) {
                if !self.pay(size(&service), service.spot, faults) {
                    break;
                }
                match services.iter_mut().find(|it| it.name == service.name) {
                    Some(before) => {
                        before.keys = merged(std::mem::take(&mut before.keys), service.keys);
                    }
                    None => services.push(service),
                }
            }
        }
        services
    }

    /// A service with what it extends.
    fn extended(
        &mut self,
        at: &BasedFile,
        name: &str,
        line: &mut Vec<(BasedFile, String)>,
        from: Spot,
        faults: &mut ComposeFaults,
    ) -> Option<RawService> {
        if self.copies == 0 {
            return None;
        }
        let file = self.file(at, Some(from), faults)?;
        let Some(service) = file.services.iter().find(|service| service.name == name) else {
            let shown = shown(&at.path);
            faults.add(
                from,
                "extends",
                format!("there is no service `{name}` in {shown}"),
            );
            return None;
        };
        let mut service = service.clone();
        let Some(position) = service.keys.iter().position(|pair| pair.key == "extends") else {
            return Some(service);
        };
        let extends = service.keys.remove(position);
        let id = (at.clone(), name.to_owned());
        let field = format!("services.{name}.extends");
        if line.contains(&id) || line.len() >= LINE {
            let message = if line.contains(&id) {
                "services extend each other in a circle".to_owned()
            } else {
                format!("more than {LINE} services extend one another")
            };
            faults.add(extends.spot, field, message);
            return None;
        }
        let base = match &extends.node.value {
            ComposeValue::Text(base) => Some((at.clone(), base.clone())),
            _ => extends
                .node
                .get("service")
                .and_then(ComposeNode::text)
                .map(|base| {
                    let file = extends.node.get("file").and_then(ComposeNode::text);
                    let file = file.map(|file| join(&at.base, file)).map(|path| BasedFile {
                        base: directory(&path),
                        path,
                    });
                    let file = file.unwrap_or_else(|| at.clone());
                    (file, base.to_owned())
                }),
        };
        let Some((file, base)) = base else {
            let message = "the name of a service, or `service` and `file`, is missing";
            faults.add(extends.spot, field, message);
            return None;
        };
        line.push(id);
        let base = self.extended(&file, &base, line, extends.node.spot, faults);
        line.pop();
        let base = base?;
        if !self.pay(size(&base), extends.spot, faults) {
            return None;
        }
        service.keys = merged(base.keys, service.keys);
        Some(service)
    }

    /// A file, read once.
    fn file(
        &mut self,
        at: &BasedFile,
        from: Option<Spot>,
        faults: &mut ComposeFaults,
    ) -> Option<Rc<ComposeFile>> {
        let path = &at.path;
        if let Some(file) = self.loaded.get(at) {
            return Some(Rc::clone(file));
        }
        let file = self.files.len();
        if file >= FILES {
            let spot = Spot {
                file: 0,
                mark: Mark::START,
            };
            faults.add(
                spot,
                "",
                format!("the compose files include and extend more than {FILES} files"),
            );
            return None;
        }
        let text = match (self.read)(path) {
            Ok(Some(text)) => text,
            found => {
                let reason = found.err().unwrap_or_else(|| "there is no such file".to_owned());
                match from {
                    Some(spot) => faults.add(spot, "", format!("{}: {reason}", shown(path))),
                    None => {
                        self.files.push(shown(path));
                        faults.add(
                            Spot {
                                file,
                                mark: Mark::START,
                            },
                            "",
                            reason,
                        );
                    }
                }
                return None;
            }
        };
        self.files.push(shown(path));
        self.bases.insert(file, at.base.clone());
        let pairs = tree::read(&text, file, faults)?;
        let read = Rc::new(self.content(pairs, file, faults)?);
        self.loaded.insert(at.clone(), Rc::clone(&read));
        Some(read)
    }

    fn content(
        &mut self,
        pairs: Vec<KeyedNode>,
        file: usize,
        faults: &mut ComposeFaults,
    ) -> Option<ComposeFile> {
        let start = Spot {
            file,
            mark: Mark::START,
        };
        let is_first_format = find(&pairs, "services").is_none()
            && pairs
                .iter()
                .any(|it| it.node.get("image").or(it.node.get("build")).is_some());
        if is_first_format {
            let message = "this is the first format of compose files: put the services under `services`";
            faults.add(start, "", message);
            return None;
        }
        let mut content = ComposeFile::default();
        for KeyedNode { key, spot, node } in pairs {
            match key.as_str() {
                "services" => content.services = self.services(node, faults),
                "include" => {
                    let mut node = node;
                    self.fill(&mut node, "include", faults);
                    content.includes = node.items().to_vec();
                }
                known if TOP.contains(&known) => {}
                other => {
                    let message = "the key is not known in a compose file, so it is ignored";
                    self.notes.push(SpotMessage::new(spot, other, message));
                }
            }
        }
        Some(content)
    }

    fn services(&mut self, node: ComposeNode, faults: &mut ComposeFaults) -> Vec<RawService> {
        let pairs = match node.value {
            ComposeValue::Map(pairs) => pairs,
            ComposeValue::Null => return Vec::new(),
            _ => {
                let message = format!("{} where there should be a mapping of services", node.kind());
                faults.add(node.spot, "services", message);
                return Vec::new();
            }
        };
        let mut services = Vec::new();
        if pairs.len() > SERVICES {
            let message = format!("there are {} services: at most {SERVICES} are read", pairs.len());
            faults.add(node.spot, "services", message);
            return services;
        }
        for KeyedNode {
            key: name,
            spot,
            mut node,
        } in pairs
        {
            if tree::is_extension(&name) {
                continue;
            }
            let field = format!("services.{name}");
            self.fill(&mut node, &field, faults);
            match node.value {
                ComposeValue::Map(keys) => {
                    let keys = keys.into_iter().map(|mut pair| {
                        pair.node = as_mapping(&pair.key, pair.node);
                        pair
                    });
                    let keys = keys.collect();
                    services.push(RawService { name, spot, keys });
                }
                _ => {
                    let message = format!("{} where there should be a mapping", node.kind());
                    faults.add(node.spot, field, message);
                }
            }
        }
        services
    }

    /// Fills the variables in of all values below a node.
    fn fill(&mut self, node: &mut ComposeNode, field: &str, faults: &mut ComposeFaults) {
        match &mut node.value {
            ComposeValue::Null => {}
            ComposeValue::Text(text) => {
                let settings = [".environment", ".command"];
                self.interpolation.is_setting = settings.iter().any(|it| field.contains(it));
                let names = match self.interpolation.is_setting {
                    true => named(text),
                    false if field.ends_with(".image") => named(tag_part(text)),
                    false => BTreeSet::new(),
                };
                if !names.is_empty() {
                    self.interpolation.named.insert(node.spot, names);
                }
                match self.interpolation.fill(text, &self.variables) {
                    Ok(filled) => *text = filled,
                    Err(reason) => faults.add(node.spot, field, reason),
                }
            }
            ComposeValue::List(items) => {
                for (at, item) in items.iter_mut().enumerate() {
                    self.fill(item, &format!("{field}[{at}]"), faults);
                }
            }
            ComposeValue::Map(pairs) => {
                for pair in pairs {
                    self.fill(&mut pair.node, &format!("{field}.{}", pair.key), faults);
                }
            }
        }
    }

    /// Whether so much more may be copied.
    fn pay(&mut self, size: usize, spot: Spot, faults: &mut ComposeFaults) -> bool {
        let before = self.copies;
        self.copies = self.copies.saturating_sub(size);
        if self.copies == 0 && before > 0 {
            faults.add(
                spot,
                "",
                "the services that extend others expand to too much text",
            );
        }
        self.copies > 0
    }
}

fn size(service: &RawService) -> usize {
    service.keys.iter().map(|pair| 1 + pair.node.size()).sum()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The directory of a file.
fn directory(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// A path seen from a directory, without `.` and, as far as that is known, without `..`.
pub(super) fn join(directory: &Path, path: &str) -> PathBuf {
    let mut joined = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(joined.components().next_back(), Some(Component::Normal(_))) => {
                joined.pop();
            }
            part => joined.push(part),
        }
    }
    joined
}
