// @ts-check
/** The names of the LoRA files that the host lists, out of a node's description. No DOM, no requests. */

/**
 * The choices of a combo input, in the form of every host: [[...names], settings] or ["COMBO", {options: [...]}].
 * @param {any} definition a node's entry in /object_info
 * @param {string} input
 * @returns {string[]}
 */
export function choicesOf(definition, input) {
  const description = definition?.input?.required?.[input] ?? definition?.input?.optional?.[input];
  const [type, settings] = Array.isArray(description) ? description : [];
  const choices = Array.isArray(type) ? type : settings?.options;
  return Array.isArray(choices) ? choices.filter((choice) => typeof choice === "string") : [];
}

/**
 * Whether the host finds a file of this name: as listed, without its ending, or by its bare name if only one has it.
 * The rule is the one of nodes/host_files/lora_folders.py, find_lora.
 * @param {string} name
 * @param {readonly string[]} listed
 */
export function isListed(name, listed) {
  const wanted = slashed(name);
  const paths = listed.map(slashed);
  if (paths.includes(wanted) || paths.includes(`${wanted}.safetensors`)) return true;
  return paths.filter((path) => stem(path) === wanted).length === 1;
}

/** @param {string} name */
function slashed(name) {
  return name.replaceAll("\\", "/");
}

/** @param {string} path */
function stem(path) {
  const file = path.slice(path.lastIndexOf("/") + 1);
  const dot = file.lastIndexOf(".");
  return dot > 0 ? file.slice(0, dot) : file;
}
