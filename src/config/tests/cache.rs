//! Facts about what is said of the cache.

use super::*;

#[test]
fn size_and_releases_are_parsed() {
    let cache = |text: &str| parse(text).unwrap().cache;
    let said = cache("[cache]\ncontent = '500MB'\nreleases = 5");
    assert_eq!((said.keep.max_bytes, said.keep.releases), (500_000_000, 5));
    assert_eq!(cache("[cache]\ncontent = '2GiB'").keep.max_bytes, 2 << 30);
    assert_eq!(
        cache("[cache]\ncontent = '0'"),
        CacheConfig {
            keep: crate::push::KeepContent { max_bytes: 0, ..crate::push::KeepContent::default() },
            ..CacheConfig::default()
        }
    );
    assert_eq!((cache("[cache]"), cache("")), (CacheConfig::default(), CacheConfig::default()));
}

#[test]
fn cache_directory_is_relative_to_the_file() {
    let dir = |path: &str| parse(&format!("[cache]\ndir = '{path}'")).unwrap().cache.dir.unwrap();
    assert_eq!((dir("c/d"), dir("/c")), ("/etc/hw/c/d".into(), "/c".into()));
    let here = Config::parse("[cache]\ndir = 'c'", Path::new(FILE_NAME)).unwrap();
    assert_eq!(here.cache.dir, Some("./c".into()));
}

#[test]
fn cache_errors_are_reported() {
    for (text, line, words) in [
        ("[cache]\ncontent='much'", 2, "a size is written as"),
        ("[cache]\ncontent='-1'", 2, "a size is written as"),
        ("[cache]\ncontent=8", 2, "must be a string in quotes"),
        ("[cache]\nreleases=0", 2, "a whole number from 1"),
        ("[cache]\nsize='8GiB'", 2, "unknown field `size`"),
        ("cache='8GiB'", 1, "a table with `dir`, `content` and `releases`"),
        ("[cache]\ndir=''", 2, "the path is empty"),
        ("[cache]\ndirr='c'", 2, "did you mean `dir`?"),
    ] {
        let (at, _, message) = mistake(text);
        assert!(at == line && message.contains(words), "{text}: line {at}: {message}");
    }
}
