// Beam search by the rules of transformers: bitmar.runtime.generate, where they stand, with length_penalty 1.

// The finished hypotheses after what the engine has read, best first: their ids without the end. most: tokens of each.
export function search(engine, { beams, most, end }) {
  const wide = 2 * beams;
  let running = [{ score: 0, tokens: [] }];
  let finished = [];
  for (let length = 1; length <= most; length++) {
    const { ids, scores } = engine.candidates(running.length, wide);
    const found = ids.map((id, i) => {
      const source = Math.floor(i / wide);
      return { source, id, score: Math.fround(scores[i] + running[source].score) };
    });
    const alive = [];
    found.sort(better).slice(0, wide).forEach(({ source, id, score }, rank) => {
      const before = running[source].tokens;
      const tokens = id === end ? before : [...before, id];
      if (id === end || length === most) {
        if (rank < beams) finished.push({ score: score / length, tokens });
      } else if (alive.length < beams) {
        alive.push({ source, score, tokens });
      }
    });
    finished = finished.sort(better).slice(0, beams);
    if (!alive.length) break;
    if (finished.length === beams && alive[0].score / length <= finished.at(-1).score) break;
    running = alive;
    engine.branch(alive.map(({ source }) => source), alive.map(({ tokens }) => tokens.at(-1)));
  }
  return finished.map(({ tokens }) => tokens);
}

function better(a, b) {
  return b.score - a.score;
}
