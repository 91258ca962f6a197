// Compile every JSON Schema of standard input (an object of them by name) in ajv's strict mode, and judge documents.
// In:  {"schemas": {name: schema}, "documents": {name: [document, ...]}}
// Out: {name: {"error": text or null, "verdicts": [bool, ...]}}
import { readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";

const { schemas, documents } = JSON.parse(readFileSync(0, "utf8"));
const out = {};
for (const [name, schema] of Object.entries(schemas)) {
  const ajv = new Ajv2020.default({ strict: true, allErrors: true });
  ajv.addKeyword("x-devinterp"); // the schema's own document, which travels along
  try {
    const judge = ajv.compile(schema);
    out[name] = { error: null, verdicts: (documents[name] ?? []).map((document) => judge(document)) };
  } catch (error) {
    out[name] = { error: String(error.message), verdicts: [] };
  }
}
console.log(JSON.stringify(out));
