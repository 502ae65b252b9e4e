//! A strict parser of the text format of Prometheus, as far as a file of gauges uses it.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>. It is stricter than
//! Prometheus: each family has its HELP line and its TYPE line, in this order, before its samples.

use std::collections::BTreeSet;

/// Returns the number of families in `text`, or the first line that breaks the format and why.
pub(crate) fn check_gauges(text: &str) -> Result<usize, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut families = Families::default();
    for line in text.lines() {
        families.take(line).map_err(|reason| format!("{reason}: {line}"))?;
    }
    families.end_family()?;
    Ok(families.names.len())
}

#[derive(Default)]
struct Families {
    names: BTreeSet<String>,
    series: BTreeSet<String>,
    /// The family that the last HELP line opened.
    open: Option<Family>,
}

struct Family {
    name: String,
    has_type: bool,
    samples: usize,
}

impl Families {
    fn take(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            self.end_family()?;
            return self.begin_family(rest);
        }
        let family = self.open.as_mut().ok_or("a line before the first HELP")?;
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let is_next = !std::mem::replace(&mut family.has_type, true) && family.samples == 0;
            let is_gauge = rest.strip_prefix(&family.name) == Some(" gauge");
            return (is_next && is_gauge).then_some(()).ok_or("not the TYPE of the gauge above");
        }
        family.samples += 1;
        if !family.has_type {
            return Err("a sample before its TYPE");
        }
        let series = series_of(line, &family.name)?;
        self.series.insert(series).then_some(()).ok_or("a series occurs twice")
    }

    fn begin_family(&mut self, rest: &str) -> Result<(), &'static str> {
        let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
        check_name(name, ":")?;
        unescaped(help, "\\n")?;
        if help.trim().is_empty() {
            return Err("HELP without a text");
        }
        self.open = Some(Family { name: name.to_owned(), has_type: false, samples: 0 });
        self.names.insert(name.to_owned()).then_some(()).ok_or("a family occurs twice")
    }

    fn end_family(&self) -> Result<(), &'static str> {
        let is_whole = self.open.as_ref().is_none_or(|family| family.has_type);
        is_whole.then_some(()).ok_or("the family above has no TYPE")
    }
}

/// The name and the sorted labels of a sample of the family `name`.
fn series_of(line: &str, name: &str) -> Result<String, &'static str> {
    let rest = line.strip_prefix(name).ok_or("a sample of another family")?;
    let mut labels = BTreeSet::new();
    let value = match rest.strip_prefix('{') {
        Some(inner) => labels_of(inner, &mut labels)?,
        None => rest,
    };
    check_value(value.strip_prefix(' ').ok_or("no space before the value")?)?;
    Ok(labels.into_iter().map(|(name, value)| format!("{name}={value};")).collect())
        .map(|labels: String| format!("{name}{{{labels}}}"))
}

/// Reads `name="value",...}` and returns what follows.
fn labels_of<'a>(
    mut rest: &'a str,
    labels: &mut BTreeSet<(&'a str, &'a str)>,
) -> Result<&'a str, &'static str> {
    loop {
        let (name, quoted) = rest.split_once("=\"").ok_or("a label without a value")?;
        check_name(name, "")?;
        let end = closing_quote(quoted).ok_or("a label value does not end")?;
        unescaped(&quoted[..end], "\\n\"")?;
        let is_new = labels.iter().all(|(other, _)| *other != name);
        labels.insert((name, &quoted[..end]));
        let after = &quoted[end + 1..];
        match (is_new, after.strip_prefix(','), after.strip_prefix('}')) {
            (false, ..) => return Err("a label occurs twice"),
            (true, Some(more), _) => rest = more,
            (true, None, Some(value)) => return Ok(value),
            (true, None, None) => return Err("the labels do not end"),
        }
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, char)| {
        let is_end = char == '"' && !is_escaped;
        is_escaped = char == '\\' && !is_escaped;
        is_end.then_some(at)
    })
}

/// Refuses a backslash before anything but a backslash or one of `escapes`.
fn unescaped(text: &str, escapes: &str) -> Result<(), &'static str> {
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\\' && !chars.next().is_some_and(|next| next == '\\' || escapes.contains(next))
        {
            return Err("a backslash that escapes nothing");
        }
    }
    Ok(())
}

fn check_name(name: &str, more: &str) -> Result<(), &'static str> {
    let is_valid = |char: char| char.is_ascii_alphanumeric() || char == '_' || more.contains(char);
    let begins_well = name.starts_with(|char: char| !char.is_ascii_digit());
    (begins_well && name.chars().all(is_valid)).then_some(()).ok_or("not a valid name")
}

fn check_value(value: &str) -> Result<(), &'static str> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let is_special = ["NaN", "+Inf", "-Inf"].contains(&value);
    (is_special || (is_number && value.parse::<f64>().is_ok()))
        .then_some(())
        .ok_or("not a valid value")
}

#[test]
fn checker_refuses_invalid_prometheus_text() {
    let head = "# HELP a_b What it is.\n# TYPE a_b gauge\n";
    for good in [
        "a_b 1",
        "a_b -1.5e3",
        "a_b NaN",
        "a_b{x=\"1\"} 2\na_b{x=\"2\"} 2",
        "a_b{x=\"}, \\\"\\n\\\\\",y_1=\"\"} 0",
    ] {
        assert_eq!(check_gauges(&format!("{head}{good}\n")), Ok(1), "{good}");
    }
    assert_eq!((check_gauges(""), check_gauges(head)), (Ok(0), Ok(1)));
    for bad in [
        "",
        "a_b",
        "a_b ",
        "a_b one",
        "a_b inf",
        "a_b  1",
        "a_b 1 ",
        "other 1",
        "a_bc 1",
        "a_b{} 1",
        "a_b{x} 1",
        "a_b{x=1} 1",
        "a_b{x=\"1} 1",
        "a_b{x=\"1\" 1",
        "a_b{x=\"1\",} 1",
        "a_b{1x=\"1\"} 1",
        "a_b{x:y=\"1\"} 1",
        "a_b{x=\"\\t\"} 1",
        "a_b{x=\"1\",x=\"2\"} 1",
        "a_b 1\na_b 2",
        "a_b{x=\"1\",y=\"2\"} 1\na_b{y=\"2\",x=\"1\"} 1",
        "# TYPE a_b gauge",
        "# HELP a_b Again.\n# TYPE a_b gauge",
        "# HELP c No type.",
        "# HELP c \n# TYPE c gauge",
        "# HELP c\n# TYPE c gauge",
        "# HELP c A tab: \\t\n# TYPE c gauge",
        "# HELP c A counter.\n# TYPE c counter",
        "# HELP c.d Name.\n# TYPE c.d gauge",
        "# HELP c Late.\nc 1\n# TYPE c gauge",
        "# a comment",
    ] {
        check_gauges(&format!("{head}{bad}\n")).expect_err(bad);
    }
    check_gauges(&format!("{head}a_b 1")).expect_err("no end of line");
    check_gauges("a_b 1\n").expect_err("no head");
}
