//! Blocks of a Markdown page, and the comments about them.

/// A block of code.
#[derive(Clone, Debug, Default)]
pub struct Block {
    page: String,
    line: usize,
    pub language: String,
    pub code: String,
    pub mark: Mark,
    /// The command whose output it shows.
    pub output_of: Option<String>,
}

impl Block {
    /// For messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }
}

/// `<!-- run: ... -->`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    /// Why it is not run.
    pub no: Option<String>,
    /// Kinds of data and the folders they are put in.
    pub data: Vec<(String, String)>,
    /// Tools.
    pub needs: Vec<String>,
}

impl Mark {
    fn parse(comment: &str) -> Option<Self> {
        let text = comment.trim().strip_prefix("<!-- run:")?.strip_suffix("-->")?.trim();
        let mut mark = Self::default();
        if let Some(reason) = text.strip_prefix("no,") {
            assert!(!reason.trim().is_empty(), "a reason is missing: {comment}");
            mark.no = Some(reason.trim().into());
            return Some(mark);
        }
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("data", value)) => {
                    let (kind, folder) = value.split_once(':').unwrap_or((value, "."));
                    mark.data.push((kind.into(), folder.into()));
                }
                Some(("needs", tool)) => mark.needs.push(tool.into()),
                _ => panic!("{word:?} is not understood: {comment}"),
            }
        }
        Some(mark)
    }
}

/// The command in ``output of `COMMAND` `` at the end of a paragraph.
fn output_of(paragraph: &str) -> Option<String> {
    let at = ["utput of `", "and of `"]
        .iter()
        .filter_map(|words| Some(paragraph.rfind(words)? + words.len()))
        .max()?;
    paragraph[at..].split('`').next().map(str::to_string)
}

/// All blocks of a page, fenced and indented.
pub fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut paragraph, mut fresh, mut mark) = (String::new(), true, Mark::default());
    let mut lines = text.lines().enumerate().peekable();
    while let Some((k, line)) = lines.next() {
        let mut block = Block { page: page.into(), line: k + 1, ..Block::default() };
        if let Some(language) = line.strip_prefix("```") {
            block.language = language.trim().into();
            for (_, line) in lines.by_ref().take_while(|(_, l)| !l.starts_with("```")) {
                block.code.push_str(line);
                block.code.push('\n');
            }
        } else if fresh && line.starts_with("    ") {
            let mut code = vec![&line[4..]];
            while let Some((_, next)) = lines.next_if(|(_, l)| l.starts_with("    ") || l.trim().is_empty()) {
                code.push(next.get(4..).unwrap_or_default());
            }
            block.code = code.join("\n").trim_end().to_string() + "\n";
            block.language = "sh".into();
        } else {
            if let Some(found) = Mark::parse(line) {
                mark = found;
            } else if line.trim().is_empty() {
                fresh = true;
            } else {
                if fresh {
                    paragraph.clear();
                }
                fresh = false;
                paragraph.push_str(line);
                paragraph.push(' ');
            }
            continue;
        }
        block.mark = std::mem::take(&mut mark);
        // What a fenced block of another language shows is no output.
        block.output_of = output_of(&paragraph).filter(|_| matches!(block.language.as_str(), "text" | "sh"));
        paragraph.clear();
        fresh = true;
        blocks.push(block);
    }
    blocks
}

/// Lines with every number replaced by `#`, blanks between words made one, and repeated lines once.
pub fn masked(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        let (mut masked, mut chars) = (String::new(), line.trim_end().chars().peekable());
        while let Some(c) = chars.next() {
            let inside = masked.chars().last().is_some_and(|l| l.is_alphabetic() || l == '_' || l == '@');
            let signed = c == '-' && chars.peek().is_some_and(char::is_ascii_digit) && !inside;
            if (c.is_ascii_digit() || signed) && !inside {
                let mut last = c;
                let number = |d: char, last: char| {
                    d.is_ascii_digit() || matches!(d, '.' | 'e') || (last == 'e' && matches!(d, '-' | '+'))
                };
                while let Some(d) = chars.next_if(|&d| number(d, last)) {
                    last = d;
                }
                masked.push('#');
            } else if c != ' ' || !masked.ends_with(' ') {
                masked.push(c);
            }
        }
        if !masked.trim().is_empty() && out.last() != Some(&masked) {
            out.push(masked);
        }
    }
    out
}

#[test]
fn pages_are_understood() {
    let text = "# A\n\nRun it:\n\n<!-- run: data=pairs:in needs=cc -->\n```sh\nunicon info\n```\n\nOutput of `./a b`:\n\n\
                \x20   loss 0.5, 3 of 4\n\n\x20   done\n\nand of `./a c`:\n\n```text\nx\n```\n\n<!-- run: no, too big -->\n    ls\n";
    let all = blocks("p.md", text);
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!((all[0].code.as_str(), all[0].place()), ("unicon info\n", "p.md:6".to_string()));
    assert_eq!(all[0].mark.data, [("pairs".to_string(), "in".to_string())]);
    assert_eq!((all[0].output_of.as_deref(), all[0].mark.needs.len()), (None, 1));
    assert_eq!(
        (all[1].output_of.as_deref(), all[1].code.as_str()),
        (Some("./a b"), "loss 0.5, 3 of 4\n\ndone\n")
    );
    assert_eq!(all[2].output_of.as_deref(), Some("./a c"));
    assert_eq!(all[3].mark.no.as_deref(), Some("too big"));
}

#[test]
fn numbers_are_masked_and_words_are_not() {
    let shown = "update 1 of 2: loss 0.5, 0.00 s\nupdate 2 of 2: loss -1.25e-3, 0.01 s\nR@1  x2y 7\n";
    assert_eq!(masked(shown), ["update # of #: loss #, # s", "R@1 x2y #"]);
    assert_ne!(masked("done"), masked("failed"));
}
