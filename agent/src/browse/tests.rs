#![allow(clippy::unwrap_used)]

use super::*;
use crate::fixture::{Fixture, Spec, What, file, spec};

fn tree() -> Vec<Spec> {
    vec![
        file("etc/fstab", b"one"),
        file("usr/bin/true", b"two"),
        spec("bin", What::Symlink(b"usr/bin".to_vec())),
        spec("etc/absolute", What::Symlink(b"/etc/fstab".to_vec())),
        spec("etc/up", What::Symlink(b"../../../../etc/./fstab".to_vec())),
        spec("loop", What::Symlink(b"loop".to_vec())),
        spec("chain0", What::Symlink(b"etc/fstab".to_vec())),
    ]
}

fn names(fixture: &Fixture, path: &str, links: Links) -> Result<(String, String)> {
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let place = browser.find(path.as_bytes(), links)?;
    let volume = browser.volume_path(place.volume).to_owned();
    Ok((volume, String::from_utf8(place.path).unwrap()))
}

#[test]
fn paths_are_found_with_and_without_their_volume() {
    let fixture = Fixture::new(1, &tree());
    let found = |path: &str| names(&fixture, path, Links::Keep).unwrap();
    for path in
        ["/etc/fstab", "disk/etc/fstab", "//etc/./fstab/", "/usr/../etc/fstab", "/../etc/fstab"]
    {
        assert_eq!(found(path), ("disk".into(), "etc/fstab".into()), "{path}");
    }
    for path in ["/", "disk", "disk/", "/.."] {
        assert_eq!(found(path).1, "", "{path}");
    }
    for missing in ["/etc/nothing", "/etc/fstab/x", "part/1/etc", "diskx", "disk/bin/true"] {
        let error = names(&fixture, missing, Links::Keep).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{missing}: {error}");
        assert_eq!(error.exit_code(), 1);
    }
}

#[test]
fn links_are_kept_or_followed_inside_the_volume() {
    let fixture = Fixture::new(2, &tree());
    assert_eq!(names(&fixture, "/bin", Links::Keep).unwrap().1, "bin");
    for (path, target) in [
        ("/bin", "usr/bin"),
        ("/bin/true", "usr/bin/true"),
        ("/etc/absolute", "etc/fstab"),
        ("/etc/up", "etc/fstab"),
        ("/bin/../../etc/fstab", "etc/fstab"),
    ] {
        assert_eq!(names(&fixture, path, Links::Follow).unwrap().1, target, "{path}");
    }
    let error = names(&fixture, "/loop", Links::Follow).unwrap_err().to_string();
    assert!(error.contains("more than 40"), "{error}");
    let error = names(&fixture, "/bin/true", Links::Keep).unwrap_err().to_string();
    assert!(error.contains("usr/bin"), "{error}");
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let mut specs = tree();
    for number in 1..=41 {
        let target = format!("chain{}", number - 1).into_bytes();
        specs.push(spec(format!("chain{number}"), What::Symlink(target)));
    }
    let fixture = Fixture::new(3, &specs);
    assert_eq!(names(&fixture, "/chain39", Links::Follow).unwrap().1, "etc/fstab");
    assert!(names(&fixture, "/chain40", Links::Follow).is_err());
}

#[test]
fn a_path_on_several_volumes_is_ambiguous() {
    let (one, two) = (tree(), vec![file("etc/fstab", b"x"), file("only", b"y")]);
    let fixture = Fixture::with_volumes(4, &[("part/1", &one), ("part/12", &two)]);
    let error = names(&fixture, "/etc/fstab", Links::Keep).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.contains("part/1/etc/fstab, part/12/etc/fstab"), "{text}");
    let found = |path: &str| names(&fixture, path, Links::Keep).unwrap();
    assert_eq!(found("/only"), ("part/12".into(), "only".into()));
    assert_eq!(found("part/12/etc/fstab").0, "part/12");
    assert_eq!(found("part/1/etc/fstab").0, "part/1");
    let error = names(&fixture, "part/2/x", Links::Keep).unwrap_err().to_string();
    assert!(error.contains("part/1 (ext4), part/12 (ext4)"), "{error}");
}

#[test]
fn a_walk_comes_to_everything_in_order() {
    let mut specs = tree();
    specs.extend((0..700).map(|number| file(format!("many/{number:04}"), b"z")));
    specs.extend((0..300).map(|number| file(format!("dirs/{number:04}/f"), b"z")));
    let fixture = Fixture::new(5, &specs);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let mut walk = browser.walk(&browser.root(0).unwrap());
    let mut paths = Vec::new();
    while let Some(Visit::Entry { path, .. }) = walk.next().unwrap() {
        if path == b"many" {
            walk.skip();
        }
        paths.push(path);
    }
    let mut expected: Vec<Vec<u8>> = vec![Vec::new()];
    for spec in &specs {
        if !spec.path.starts_with(b"many/") {
            expected.push(spec.path.clone());
        }
        let ends = spec.path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        expected.extend(ends.map(|(end, _)| spec.path[..end].to_vec()));
    }
    // Byte order of names, directory by directory.
    let key = |path: &Vec<u8>| path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    expected.sort_by_key(key);
    expected.dedup();
    if let Some(root) = paths.first() {
        assert!(root.is_empty());
    }
    assert_eq!(paths, expected);
}

#[test]
fn a_damaged_directory_is_one_visit_and_the_rest_is_there() {
    let specs = [file("a/f", b"1"), file("b/f", b"2"), file("c/f", b"3")];
    let mut fixture = Fixture::new(6, &specs);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let lost = browser.find(b"/b", Links::Keep).unwrap().entry.record.directory.unwrap();
    fixture.nodes.remove(&lost);
    let browser = Browser::new(&fixture.snapshot, &fixture.nodes);
    let mut walk = browser.walk(&browser.root(0).unwrap());
    let (mut seen, mut damaged) = (Vec::new(), Vec::new());
    while let Some(visit) = walk.next().unwrap() {
        match visit {
            Visit::Entry { path, .. } => seen.push(String::from_utf8(path).unwrap()),
            Visit::Lost { path, .. } => damaged.push(String::from_utf8(path).unwrap()),
        }
    }
    assert_eq!(seen, ["", "a", "a/f", "b", "c", "c/f"]);
    assert_eq!(damaged, ["b"]);
    assert_eq!(names(&fixture, "/b/f", Links::Keep).unwrap_err().exit_code(), 4);
}
