// @ts-check
/** Finds nodes in a graph and in the subgraphs inside it. */

/**
 * Every node, also those inside subgraphs.
 * @param {any} graph
 * @returns {Generator<any>}
 */
export function* nodesOf(graph) {
  for (const node of graph?.nodes ?? []) {
    yield node;
    if (node.subgraph) yield* nodesOf(node.subgraph);
  }
}

/**
 * The node of an execution id: the ids of the subgraph nodes around it and its own, joined by colons ("5:12:3").
 * Ids are compared as text, since front ends hold them as numbers or as text.
 * @param {any} graph the outermost graph
 * @param {unknown} executionId
 * @returns {any} undefined if there is no such node
 */
export function nodeOfExecution(graph, executionId) {
  let inside = graph;
  let node;
  for (const id of String(executionId).split(":")) {
    node = (inside?.nodes ?? []).find((/** @type {any} */ candidate) => String(candidate.id) === id);
    inside = node?.subgraph;
  }
  return node;
}

/**
 * The execution id of a node, see nodeOfExecution.
 * @param {any} graph the outermost graph
 * @param {any} node
 * @returns {string | undefined} undefined if the node is not in the graph
 */
export function executionIdOf(graph, node) {
  for (const candidate of graph?.nodes ?? []) {
    if (candidate === node) return String(candidate.id);
    const inside = candidate.subgraph && executionIdOf(candidate.subgraph, node);
    if (inside) return `${candidate.id}:${inside}`;
  }
  return undefined;
}
