// @ts-check
/** Searches a list of LoRA files: words to matches, folders, and the names nearest to one that is gone. No DOM. */

/**
 * One file as the route /lora_loom/files lists it.
 * @typedef {{
 *   name: string, bytes: number, modified: number, title: string, base_model: string, preview: boolean, notes: boolean,
 * }} ListedFile
 */
/** @typedef {{file: ListedFile, text: string, stem: string, folder: string}} Entry a file, ready to be searched */
/** @typedef {{path: string, label: string, depth: number, count: number}} Folder `count` is of all files below it */

const NEAREST = 3;
const LIKENESS = 0.35; // share of common letter pairs below which a name is no suggestion

/**
 * A list made ready once, so that a search only compares text.
 * @param {readonly ListedFile[]} files
 * @returns {Entry[]}
 */
export function indexOf(files) {
  return files.map((file) => {
    const path = file.name.replaceAll("\\", "/");
    const cut = path.lastIndexOf("/");
    const stem = withoutEnding(path.slice(cut + 1)).toLowerCase();
    return { file, text: `${path} ${file.title} ${file.base_model}`.toLowerCase(), stem, folder: path.slice(0, cut + 1) };
  });
}

/**
 * The entries that have every word of the query, in any order; those whose file name begins with the query first, then
 * those that have it in the name, then the rest, each group in the order of the list.
 * @param {readonly Entry[]} entries
 * @param {string} query
 * @param {string} folder "" for all, else with the slash at its end
 */
export function search(entries, query, folder) {
  const whole = query.trim().toLowerCase();
  const words = whole.split(/\s+/).filter(Boolean);
  /** @type {[Entry[], Entry[], Entry[]]} */
  const groups = [[], [], []];
  for (const entry of entries) {
    if (!entry.folder.startsWith(folder)) continue;
    if (!words.every((word) => entry.text.includes(word))) continue;
    groups[entry.stem.startsWith(whole) ? 0 : words.every((word) => entry.stem.includes(word)) ? 1 : 2].push(entry);
  }
  return groups.flat();
}

/**
 * Every folder of the list, in the order of a tree; the first stands for all files.
 * @param {readonly Entry[]} entries
 * @returns {Folder[]}
 */
export function foldersOf(entries) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { folder } of entries) {
    for (let end = folder.indexOf("/"); end >= 0; end = folder.indexOf("/", end + 1)) {
      const path = folder.slice(0, end + 1);
      counts.set(path, (counts.get(path) ?? 0) + 1);
    }
  }
  const below = [...counts].sort(([a], [b]) => (a.toLowerCase() < b.toLowerCase() ? -1 : 1));
  return [
    { path: "", label: "", depth: 0, count: entries.length },
    ...below.map(([path, count]) => ({
      path,
      label: path.slice(path.lastIndexOf("/", path.length - 2) + 1, -1),
      depth: path.split("/").length - 2,
      count,
    })),
  ];
}

/**
 * The files whose names are most like one that is not there: by the letter pairs of both file names.
 * @param {string} name
 * @param {readonly Entry[]} entries
 * @returns {ListedFile[]}
 */
export function nearestFiles(name, entries) {
  const path = name.replaceAll("\\", "/");
  const wanted = pairsOf(withoutEnding(path.slice(path.lastIndexOf("/") + 1)).toLowerCase());
  return entries
    .map((entry) => ({ entry, likeness: likeness(wanted, pairsOf(entry.stem)) }))
    .filter((candidate) => candidate.likeness >= LIKENESS)
    .sort((a, b) => b.likeness - a.likeness)
    .slice(0, NEAREST)
    .map(({ entry }) => entry.file);
}

/**
 * The Dice coefficient of two sets: twice what they share, over the sum of both.
 * @param {Set<string>} a
 * @param {Set<string>} b
 */
function likeness(a, b) {
  let shared = 0;
  for (const pair of a) if (b.has(pair)) shared += 1;
  return a.size + b.size ? (2 * shared) / (a.size + b.size) : 0;
}

/** @param {string} text */
function pairsOf(text) {
  const padded = ` ${text.replace(/[^\p{L}\p{N}]+/gu, " ")} `;
  return new Set(Array.from({ length: padded.length - 1 }, (_, index) => padded.slice(index, index + 2)));
}

/** @param {string} file */
function withoutEnding(file) {
  const dot = file.lastIndexOf(".");
  return dot > 0 ? file.slice(0, dot) : file;
}
