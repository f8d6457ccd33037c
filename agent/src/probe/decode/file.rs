//! Files.

use agent_abi::{Class, FILE_AS_WRITTEN, FILE_CREATED, FILE_SYMBOLIC, FileBody};
use model::{Activity, Created, FilePath, LinkKind};

use super::{Cursor, DecodeError};

/// `class` is one of the file family; any other is taken for a change of owner.
pub(super) fn file(cursor: &mut Cursor<'_>, class: Class) -> Result<Activity, DecodeError> {
    let body: FileBody = cursor.take("the file body")?;
    let mut first = cursor.path(body.text[0], "the path")?;
    let mut second = cursor.path(body.text[1], "the second path")?;
    let symbolic = body.flags & FILE_SYMBOLIC != 0;
    if body.flags & FILE_AS_WRITTEN != 0 {
        // The target of a symbolic link is a text that means nothing until it is followed.
        if !symbolic {
            normalise(&mut first);
        }
        normalise(&mut second);
    }
    Ok(match class {
        Class::FileOpen => Activity::FileOpen {
            file: first,
            flags: body.a,
            created: if body.flags & FILE_CREATED != 0 { Created::Yes } else { Created::No },
        },
        Class::FileDelete => Activity::FileDelete { file: first },
        Class::FileRename => Activity::FileRename { from: first, to: second },
        Class::FileLink => Activity::FileLink {
            target: first,
            link: second,
            kind: if symbolic { LinkKind::Symbolic } else { LinkKind::Hard },
        },
        Class::FileMode => Activity::FileMode { file: first, mode: body.a },
        _ => Activity::FileOwner { file: first, uid: body.a, gid: body.b },
    })
}

/// Takes `.`, `..` and repeated slashes out of an absolute path by its text alone. Links before a `..` are not followed.
pub(super) fn normalise(file: &mut FilePath) {
    let clean = |part: &str| !matches!(part, "" | "." | "..");
    let Some(inner) = file.path.strip_prefix('/') else { return };
    if inner.split('/').all(clean) {
        return;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in inner.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    file.path = format!("/{}", parts.join("/"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> String {
        let mut file = FilePath { path: path.into(), ..FilePath::default() };
        normalise(&mut file);
        file.path
    }

    #[test]
    fn dots_and_slashes_go() {
        for (from, to) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b/", "/a/b"),
            ("/a/./b/.", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../etc/shadow", "/etc/shadow"),
            ("/a/.../..b", "/a/.../..b"),
            ("/tmp/x/..", "/tmp"),
            ("relative/../x", "relative/../x"),
        ] {
            assert_eq!(normal(from), to);
        }
    }

    proptest! {
        #[test]
        fn normal_paths_stay(parts in proptest::collection::vec("(\\.{0,3}[a-z/]{0,3}){1,3}", 0..8)) {
            let once = normal(&format!("/{}", parts.join("/")));
            prop_assert_eq!(normal(&once), once.clone());
            prop_assert!(!once.contains("//") && !once.contains("/../") && !once.ends_with("/.."), "{}", once);
        }
    }
}
