import assert from "node:assert/strict";
import { test } from "node:test";

import { executionIdOf, nodeOfExecution, nodesOf } from "../../web/graph_nodes.js";

const DEEP = { id: 3, name: "deep" };
const INNER = { id: "2", name: "inner", subgraph: { nodes: [DEEP] } };
const GRAPH = { nodes: [{ id: 2, name: "outer" }, { id: 5, name: "group", subgraph: { nodes: [INNER] } }] };

test("every node is found, also inside subgraphs", () => {
  assert.deepEqual(
    [...nodesOf(GRAPH)].map((node) => node.name),
    ["outer", "group", "inner", "deep"],
  );
});

test("a graph that is not there has no nodes", () => assert.deepEqual([...nodesOf(undefined)], []));

test("an execution id leads through the subgraphs, with ids as numbers or as text", () => {
  assert.equal(nodeOfExecution(GRAPH, 2).name, "outer");
  assert.equal(nodeOfExecution(GRAPH, "5:2").name, "inner");
  assert.equal(nodeOfExecution(GRAPH, "5:2:3").name, "deep");
});

test("an id that leads nowhere finds nothing", () => {
  for (const id of ["7", "2:1", "5:9", "5:2:3:1", "", undefined]) assert.equal(nodeOfExecution(GRAPH, id), undefined);
});

test("a node's execution id leads back to it", () => {
  for (const node of nodesOf(GRAPH)) assert.equal(nodeOfExecution(GRAPH, executionIdOf(GRAPH, node)), node);
  assert.equal(executionIdOf(GRAPH, {}), undefined);
});
