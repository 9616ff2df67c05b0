// @ts-check
/**
 * Hooks this pack's widgets into ComfyUI's front end. The only file with effects, and the only one that imports the
 * host: the front end loads every .js file of this folder, so the others must do nothing when they are imported.
 */

// @ts-expect-error served by the host
import { api } from "../../scripts/api.js";
// @ts-expect-error served by the host
import { app } from "../../scripts/app.js";
import { element, separateFromCanvas } from "./dom.js";
import { executionIdOf, nodeOfExecution, nodesOf } from "./graph_nodes.js";
import { LoraFiles } from "./lora_files.js";
import { openInfo } from "./lora_info_dialog.js";
import { choicesOf } from "./lora_names_state.js";
import { setLanguage } from "./page_text.js";
import { viewsOf } from "./report_state.js";
import { ReportView } from "./report_view.js";
import { ScheduleEditor } from "./schedule_editor.js";
import { StackRowsEditor } from "./stack_rows_widget.js";
import { trainingView } from "./training_state.js";
import { TrainingView } from "./training_view.js";

const REPORTING_NODES = new Set(["LoraLoomApply", "LoraLoomApplyStack", "LoraLoomInspect"]);
const STACK_NODE = "LoraLoomStack";
const TRAIN_NODE = "LoraLoomTrain";
const TRAINING_EVENT = "lora_loom.training";
const JSON_BODY = { "Content-Type": "application/json" }; // the route takes nothing else
const TRAINING_ROUTE = "/lora_loom/training";
const TRAINING_WIDGET = "lora_loom_training";
const NAMES_NODE = "LoraLoomApply"; // whose input lists the LoRA files
const NAMES_INPUT = "lora_name";
const ROWS_INPUT = "rows";
const ROWS_WIDGET = "LORA_LOOM_ROWS";
const SCHEDULE_NODE = "LoraLoomSchedule";
const POINTS_INPUT = "points";
const POINTS_WIDGET = "LORA_LOOM_POINTS";
const REPORT_WIDGET = "lora_loom_report";

const [REPORT_HEIGHT, TRAINING_HEIGHT, MARGIN] = [140, 400, 20]; // canvas pixels; least height, and the host's margin above and below
const [REPORT_WIDTH, ROWS_WIDTH, POINTS_WIDTH] = [330, 430, 330]; // canvas pixels; of a node that is newly made

/** @type {WeakMap<object, ReportView>} */
const reports = new WeakMap();
/** @typedef {StackRowsEditor | ScheduleEditor} Editor of a text that is an input's value */
/** @type {WeakMap<object, Editor>} */
const editors = new WeakMap();
/** @type {Map<string, import("./report_state.js").ReportView>} the last report of a file, by its bare name */
const lastReports = new Map();
const files = new LoraFiles((path, options) => api.fetchApi(path, options), (path) => api.apiURL(path));
/** @type {WeakMap<object, TrainingView>} */
const trainings = new WeakMap();

app.registerExtension({
  name: "lora_loom",

  init() {
    const href = new URL("./lora_loom.css", import.meta.url).href;
    document.head.append(element("link", { rel: "stylesheet", href }));
    setLanguage(app.extensionManager?.setting?.get?.("Comfy.Locale") ?? navigator.language);
  },

  setup() {
    canvasElement()?.addEventListener("litegraph:set-graph", () => requestAnimationFrame(reseatWidgets));
    api.addEventListener("executed", (/** @type {CustomEvent} */ { detail }) => {
      showOutput(detail.display_node ?? detail.node, detail.output);
    });
    api.addEventListener(TRAINING_EVENT, (/** @type {CustomEvent} */ { detail }) => showTraining(detail));
    api.addEventListener("execution_cached", (/** @type {CustomEvent} */ { detail }) => {
      for (const id of detail.nodes ?? []) reports.get(nodeOfExecution(rootGraph(), id))?.noteCached();
    });
    api.addEventListener("execution_error", (/** @type {CustomEvent} */ { detail }) => {
      showError(detail.node_id, detail.exception_message);
    });
  },

  getCustomWidgets: () => ({ [ROWS_WIDGET]: addRowsWidget, [POINTS_WIDGET]: addPointsWidget }),

  // The inputs stay STRINGs, which any host without this page takes as text; here they get editors for widgets.
  beforeRegisterNodeDef(/** @type {any} */ _type, /** @type {any} */ definition) {
    if (definition.name === NAMES_NODE) files.names = choicesOf(definition, NAMES_INPUT);
    // Their tooltips tell how to write the text, and would stand in front of the editors, whose fields have their own.
    const rows = definition.name === STACK_NODE && definition.input.required[ROWS_INPUT][1];
    if (rows) Object.assign(rows, { widgetType: ROWS_WIDGET, tooltip: undefined });
    const points = definition.name === SCHEDULE_NODE && definition.input.required[POINTS_INPUT][1];
    if (points) Object.assign(points, { widgetType: POINTS_WIDGET, tooltip: undefined });
  },

  refreshComboInNodes(/** @type {any} */ definitions) {
    files.names = choicesOf(definitions[NAMES_NODE], NAMES_INPUT);
    renderEditors();
  },

  nodeCreated(/** @type {any} */ node) {
    if (REPORTING_NODES.has(node.comfyClass)) addReport(node);
    if (node.comfyClass === TRAIN_NODE) addTraining(node);
  },

  // The front end makes all nodes anew at undo and when a workflow's tab is opened again; it keeps their outputs.
  afterConfigureGraph() {
    requestAnimationFrame(() => {
      for (const node of nodesOf(rootGraph())) showKept(node);
      reseatWidgets();
      showTrainings();
    });
  },
});

function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** @returns {HTMLElement | undefined} */
function canvasElement() {
  return app.canvas?.canvas;
}

function renderEditors() {
  for (const node of nodesOf(rootGraph())) editors.get(node)?.render();
}

/** @param {string} name of a file, with or without folder and ending */
function reportOf(name) {
  const file = name.slice(Math.max(name.lastIndexOf("/"), name.lastIndexOf("\\")) + 1);
  return lastReports.get(file) ?? lastReports.get(`${file}.safetensors`);
}

/** @param {any} node */
function addReport(node) {
  const view = new ReportView(files);
  reports.set(node, view);
  addBelow(node, REPORT_WIDGET, view.root, REPORT_HEIGHT);
}

/** @param {any} node */
function addTraining(node) {
  const view = new TrainingView({
    stop: async () => {
      const body = JSON.stringify({ node: executionIdOf(rootGraph(), node) });
      return (await api.fetchApi(`${TRAINING_ROUTE}/stop`, { method: "POST", body, headers: JSON_BODY })).ok;
    },
    viewUrl: (path) => api.apiURL(path),
  });
  trainings.set(node, view);
  addBelow(node, TRAINING_WIDGET, view.root, TRAINING_HEIGHT);
}

/**
 * Show an element below a node's inputs, which no workflow keeps.
 * @param {any} node
 * @param {string} name
 * @param {HTMLElement} root
 * @param {number} least its height, in pixels
 */
function addBelow(node, name, root, least) {
  separateFromCanvas(root, canvasElement);
  const widget = node.addDOMWidget(name, name, root, { serialize: false, getMinHeight: () => least });
  widget.serialize = false;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0], REPORT_WIDTH), Math.max(height, node.size[1])]);
}

/** @param {unknown} message */
function showTraining(message) {
  const view = trainingView(message);
  if (view) trainings.get(nodeOfExecution(rootGraph(), view.node))?.show(view);
}

/** After the page was loaded anew: what the server knows of trainings under way or ended. */
async function showTrainings() {
  if (![...nodesOf(rootGraph())].some((node) => trainings.has(node))) return;
  const answer = await api.fetchApi(TRAINING_ROUTE);
  if (answer.ok) for (const message of await answer.json()) showTraining(message);
}

/**
 * @param {unknown} executionId
 * @param {unknown} output
 */
function showOutput(executionId, output) {
  const views = viewsOf(output);
  if (!views) return;
  reports.get(nodeOfExecution(rootGraph(), executionId))?.showReports(views);
  for (const view of views.reports) lastReports.set(view.file, view);
  renderEditors();
}

/**
 * @param {unknown} executionId
 * @param {string} message
 */
function showError(executionId, message) {
  reports.get(nodeOfExecution(rootGraph(), executionId))?.showError(message);
}

/** @param {any} node */
function showKept(node) {
  const inside = node.graph === rootGraph() ? "" : `${node.graph?.id}:`;
  const views = viewsOf(app.nodeOutputs?.[`${inside}${node.id}`]);
  if (views) reports.get(node)?.showReports(views);
}

/**
 * Puts the widgets of the nodes that are there now where those of earlier nodes with the same ids are still shown:
 * Nodes 2.0 takes a widget's element once, and keeps it when undo or another graph puts another node in its place
 * (seen in front end 1.32.9, WidgetDOM.vue).
 */
function reseatWidgets() {
  for (const node of app.canvas.graph?.nodes ?? []) {
    const root = editors.get(node)?.root ?? reports.get(node)?.root ?? trainings.get(node)?.root;
    const shown = root && document.querySelector(`[data-node-id="${node.id}"] .lora-loom-widget`);
    if (shown && shown !== root) shown.replaceWith(root);
  }
}

/**
 * Called by the front end for the rows of a LoRA Stack node.
 * @param {any} node
 * @param {string} inputName
 * @param {any} description the input as in /object_info
 */
function addRowsWidget(node, inputName, description) {
  const make = (/** @type {Told} */ told) =>
    new StackRowsEditor({ files, reportOf, info: (name) => openInfo(name, files, reportOf(name)), ...told });
  return addEditor(node, { inputName, type: ROWS_WIDGET, text: description?.[1]?.default, minWidth: ROWS_WIDTH, make });
}

/**
 * Called by the front end for the points of a LoRA Schedule node.
 * @param {any} node
 * @param {string} inputName
 * @param {any} description the input as in /object_info
 */
function addPointsWidget(node, inputName, description) {
  const make = (/** @type {Told} */ told) => new ScheduleEditor(told);
  const text = description?.[1]?.default;
  return addEditor(node, { inputName, type: POINTS_WIDGET, text, minWidth: POINTS_WIDTH, make });
}

/** @typedef {{changed: (text: string) => void, settled: () => void}} Told whom an editor tells of its edits */
/**
 * Puts an editor in the place of a text field.
 * @param {any} node
 * @param {{
 *   inputName: string, type: string, text: string | undefined, minWidth: number, make: (told: Told) => Editor,
 * }} given
 */
function addEditor(node, { inputName, type, text, minWidth, make }) {
  const editor = make({
    changed: (now) => {
      widget.callback?.(now);
      makeRoom(node);
    },
    settled: () => {
      app.canvas.emitBeforeChange();
      app.canvas.emitAfterChange();
    },
  });
  separateFromCanvas(editor.root, canvasElement);
  editor.text = text ?? "";
  const widget = node.addDOMWidget(inputName, type, editor.root, {
    getMinHeight: () => editor.height + MARGIN,
    getValue: () => editor.text,
    setValue: (/** @type {unknown} */ now) => {
      editor.text = typeof now === "string" ? now : "";
      makeRoom(node);
    },
  });
  editors.set(node, editor);
  followLink(node, widget, editor);
  return { widget, minWidth, minHeight: editor.height + MARGIN };
}

/**
 * Lets a node grow to what its widgets need; it never shrinks, since its size is a person's choice.
 * @param {any} node
 */
function makeRoom(node) {
  const height = node.computeSize()[1];
  if (node.size[1] < height) node.setSize([node.size[0], height]);
}

/**
 * Shows in the editor whether its text is overruled by a wire.
 * @param {any} node
 * @param {any} widget
 * @param {Editor} editor
 */
function followLink(node, widget, editor) {
  const before = node.onConnectionsChange;
  node.onConnectionsChange = function (/** @type {any[]} */ ...change) {
    before?.apply(this, change);
    const link = node.inputs?.find((/** @type {any} */ slot) => slot.name === widget.name)?.link ?? null;
    editor.linked = link !== null && !isShownOutside(node, widget, link);
  };
}

/**
 * Whether a wire only stands for this widget being shown on the subgraph's node as well. Front ends that keep a value
 * per widget id give that node a value of its own, which overrules this one; the earlier ones show this very widget.
 * @param {any} node
 * @param {any} widget
 * @param {any} link
 */
function isShownOutside(node, widget, link) {
  const origin = node.graph?.getLink?.(link)?.origin_id;
  return !("widgetId" in widget) && origin !== undefined && String(origin) === String(node.graph.inputNode?.id);
}
