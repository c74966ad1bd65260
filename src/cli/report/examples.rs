//! Queries to look at: the surest hits, the worst misses, and what is taken for what.

use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use unicon::backend::{Backend, Similarity, Standing};
use unicon::error::Result;
use unicon::positives::Positives;
use unicon::retrieval::{Ranking, search, search_others};

/// Items of every query that are looked at.
const LIST: usize = 10;
/// Examples of each kind.
const SHOWN: usize = 10;

/// A query of x, its best match and the best other item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    /// Row of x.
    pub query: usize,
    /// The match that is most similar to it, a row of y.
    pub right: usize,
    /// Its similarity.
    pub right_score: f32,
    /// The item that is most similar to it of those that do not match.
    pub wrong: usize,
    /// Its similarity.
    pub wrong_score: f32,
    /// The rank of the match, from 1; equal items stand before it.
    pub rank: u64,
}

/// Two matches' groups that are taken for each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confusion {
    /// A row of y.
    pub first: usize,
    /// Another one.
    pub second: usize,
    /// Queries that match one and have the other in front.
    pub queries: usize,
}

/// Examples of the direction x to y.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Examples {
    /// Found first, by the widest margins.
    pub hits: Vec<Example>,
    /// Found last.
    pub misses: Vec<Example>,
    /// Most frequent first.
    pub confused: Vec<Confusion>,
}

/// Chooses examples from embeddings `zx` and `zy` and their ranking. Rows of y are told apart by `names`, where there are
/// any: rows of equal names are the same thing.
///
/// # Errors
/// Those of the backend.
pub fn examples<B: Backend>(
    backend: &B,
    (zx, zy): (&B::Matrix, &B::Matrix),
    positives: &Positives,
    ranking: &Ranking,
    exclude_self: bool,
    names: Option<&[String]>,
) -> Result<Examples> {
    let top = match exclude_self {
        true => search_others(backend, zx, zy, LIST, 0)?,
        false => search(backend, zx, zy, LIST)?,
    };
    let lists = top.indices.chunks_exact(top.k.max(1)).zip(top.scores.chunks_exact(top.k.max(1)));
    let looked: Vec<Looked> = lists
        .zip(&ranking.x_to_y)
        .enumerate()
        .filter(|(_, (_, standing))| standing.is_found())
        .filter_map(|(query, ((indices, scores), standing))| {
            let first = |matches: bool| {
                let at = indices.iter().position(|&j| positives.contains(query, j as usize) == matches)?;
                Some((indices[at] as usize, scores[at]))
            };
            Some(Looked { query, standing, right: first(true), wrong: first(false)? })
        })
        .collect();
    Ok(Examples {
        hits: hits(&looked),
        misses: misses(backend, (zx, zy), positives, &looked, exclude_self)?,
        confused: confused(positives, &looked, names),
    })
}

/// A query, the first match and the first other item of its list.
struct Looked<'a> {
    query: usize,
    standing: &'a Standing,
    right: Option<(usize, f32)>,
    wrong: (usize, f32),
}

impl Looked<'_> {
    fn example(&self, right: (usize, f32)) -> Example {
        let rank = 1 + u64::from(self.standing.ahead) + u64::from(self.standing.tied);
        Example {
            query: self.query,
            right: right.0,
            right_score: right.1,
            wrong: self.wrong.0,
            wrong_score: self.wrong.1,
            rank,
        }
    }
}

fn hits(looked: &[Looked<'_>]) -> Vec<Example> {
    let sure = looked.iter().filter(|l| l.standing.ahead + l.standing.tied == 0);
    let mut hits: Vec<Example> = sure.filter_map(|l| Some(l.example(l.right?))).collect();
    let margin = |e: &Example| e.right_score - e.wrong_score;
    hits.sort_by(|a, b| margin(b).total_cmp(&margin(a)).then(a.query.cmp(&b.query)));
    hits.truncate(SHOWN);
    hits
}

fn misses<B: Backend>(
    backend: &B,
    (zx, zy): (&B::Matrix, &B::Matrix),
    positives: &Positives,
    looked: &[Looked<'_>],
    exclude_self: bool,
) -> Result<Vec<Example>> {
    let mut worst: Vec<&Looked<'_>> = looked.iter().filter(|l| l.standing.ahead > 0).collect();
    worst.sort_by_key(|l| (std::cmp::Reverse(l.standing.ahead + l.standing.tied), l.query));
    worst.truncate(SHOWN);
    worst.sort_by_key(|l| l.query);
    if worst.is_empty() {
        return Ok(Vec::new());
    }
    // Their matches may be in no list: their similarities are computed.
    let queries: Vec<usize> = worst.iter().map(|l| l.query).collect();
    let matches = |i: usize| {
        let others = move |j: &usize| !(exclude_self && i == *j);
        positives.row(i).iter().map(|&j| j as usize).filter(others)
    };
    let items: Vec<usize> =
        queries.iter().flat_map(|&i| matches(i)).collect::<BTreeSet<_>>().into_iter().collect();
    let ids = |rows: &[usize]| rows.iter().map(|&i| i as u32).collect::<Vec<_>>();
    let (sx, sy) = (backend.select(zx, &ids(&queries))?, backend.select(zy, &ids(&items))?);
    let relation = positives.subset(&queries, &items)?;
    let found = backend.positive_similarities(Similarity::Embeddings(&sx, &sy), &relation)?;
    let mut examples = Vec::new();
    for (k, looked) in worst.iter().enumerate() {
        let scores = relation.row(k).iter().zip(&found[relation.row_offset(k)..]);
        let best = scores
            .map(|(&j, &s)| (items[j as usize], s as f32))
            .filter(|(j, _)| !(exclude_self && *j == looked.query))
            .reduce(|a, b| if b.1 > a.1 { b } else { a });
        examples.extend(best.map(|best| looked.example(best)));
    }
    examples.sort_by_key(|e| (std::cmp::Reverse(e.rank), e.query));
    Ok(examples)
}

fn confused(positives: &Positives, looked: &[Looked<'_>], names: Option<&[String]>) -> Vec<Confusion> {
    // Rows of y that match the same are one thing, called by the first of them.
    let first = |j: usize| match positives.col(j).first().and_then(|&i| positives.row(i as usize).first()) {
        Some(&k) => k as usize,
        None => j,
    };
    let mut of_name: HashMap<&str, usize> = HashMap::new();
    let mut thing = |j: usize| match names.and_then(|names| names.get(first(j))) {
        Some(name) => *of_name.entry(name).or_insert(first(j)),
        None => first(j),
    };
    let mut counts: HashMap<(usize, usize), usize> = HashMap::new();
    for l in looked.iter().filter(|l| l.standing.ahead > 0) {
        let Some(&own) = positives.row(l.query).first() else { continue };
        let (a, b) = (thing(l.right.map_or(own as usize, |r| r.0)), thing(l.wrong.0));
        if a != b {
            *counts.entry((a.min(b), a.max(b))).or_default() += 1;
        }
    }
    let of = |((first, second), queries)| Confusion { first, second, queries };
    let mut confused: Vec<Confusion> = counts.into_iter().map(of).collect();
    confused.sort_by_key(|c| (std::cmp::Reverse(c.queries), c.first, c.second));
    confused.truncate(SHOWN);
    confused
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicon::backend::cpu::Cpu;
    use unicon::io::HostMatrix;

    /// Unit vectors at these angles in degrees.
    fn at(cpu: &Cpu<f64>, angles: &[f64]) -> <Cpu<f64> as Backend>::Matrix {
        let values = angles.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
        cpu.load(&HostMatrix::from_f64("z", angles.len(), 2, values).unwrap()).unwrap()
    }

    #[test]
    fn hits_misses_and_confusions_are_those_seen() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        // 0 is found by far, 1 and 2 lie on each other's match, 3 is found narrowly.
        let (zx, zy) = (at(&cpu, &[0.0, 61.0, 80.0, 115.0]), at(&cpu, &[1.0, 81.0, 60.0, 120.0]));
        let positives = Positives::diagonal(4);
        let ranking = Ranking::new(&cpu, &zx, &zy, &positives, false).unwrap();
        let got = examples(&cpu, (&zx, &zy), &positives, &ranking, false, None).unwrap();
        assert_eq!(got.hits.iter().map(|e| e.query).collect::<Vec<_>>(), [0, 3]);
        assert_eq!((got.hits[0].right, got.hits[0].wrong, got.hits[0].rank), (0, 2, 1));
        assert_eq!(
            got.misses.iter().map(|e| (e.query, e.right, e.wrong, e.rank)).collect::<Vec<_>>(),
            [(1, 1, 2, 2), (2, 2, 1, 2)]
        );
        assert!((f64::from(got.misses[0].right_score) - 20f64.to_radians().cos()).abs() < 1e-7);
        assert_eq!(got.confused, [Confusion { first: 1, second: 2, queries: 2 }]);
        // Rows of one name are one thing: nothing is confused then.
        let names = ["a", "b", "b", "c"].map(String::from);
        let got = examples(&cpu, (&zx, &zy), &positives, &ranking, false, Some(&names)).unwrap();
        assert!(got.confused.is_empty() && got.misses.len() == 2);
    }

    #[test]
    fn groups_without_the_query_itself() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let z = at(&cpu, &[0.0, 2.0, 50.0, 51.0, 4.0]);
        // Row 4 belongs to the second group but lies with the first.
        let positives = Positives::from_groups(&[0, 0, 1, 1, 1], &[0, 0, 1, 1, 1]).unwrap();
        let ranking = Ranking::new(&cpu, &z, &z, &positives, true).unwrap();
        let got = examples(&cpu, (&z, &z), &positives, &ranking, true, None).unwrap();
        assert!(got.hits.iter().chain(&got.misses).all(|e| e.query != e.right && e.query != e.wrong));
        let miss = &got.misses[0];
        assert_eq!((miss.query, miss.right, miss.wrong, miss.rank), (4, 2, 1, 3));
        assert_eq!(got.confused, [Confusion { first: 0, second: 2, queries: 1 }]);
    }
}
