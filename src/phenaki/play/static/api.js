// Lists the requests of openapi.json and the messages of /api/protocol.

const element = (name, text, ...children) => {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
};
const json = async (url) => (await fetch(url)).json();

function describe(schema, definitions) {
  if (schema.$ref) return describe(definitions[schema.$ref.split("/").at(-1)], definitions);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  const bounds = [
    ["minimum", "from"], ["exclusiveMinimum", "above"], ["maximum", "to"], ["exclusiveMaximum", "below"],
    ["maxLength", "at most, characters:"], ["maxItems", "at most, items:"], ["maxProperties", "at most, entries:"],
  ].filter(([key]) => schema[key] !== undefined).map(([key, word]) => `${word} ${schema[key]}`);
  const type = schema.type === "array" ? `list of {${fieldNames(schema.items, definitions)}}` : schema.type ?? "";
  const plain = schema.default === undefined ? "" : `default ${JSON.stringify(schema.default)}`;
  return [type, ...bounds, plain, schema.description].filter(Boolean).join(", ");
}

function fieldNames(schema, definitions) {
  const target = schema.$ref ? definitions[schema.$ref.split("/").at(-1)] : schema;
  return Object.keys(target.properties ?? {}).join(", ");
}

function table(schema, definitions) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) =>
    element("tr", "", element("td", "", element("code", name)), element("td", describe(field, definitions))));
  return element("table", "", ...rows);
}

document.getElementById("origin").textContent = location.origin;
const [openapi, protocol] = await Promise.all([json("openapi.json"), json("/api/protocol")]);
for (const [path, methods] of Object.entries(openapi.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    document.getElementById("http").append(element("h2", `${method.toUpperCase()} ${path}`), element("p", route.description ?? ""));
    const body = route.requestBody?.content?.["application/json"]?.schema;
    if (body) document.getElementById("http").append(table(openapi.components.schemas[body.$ref.split("/").at(-1)], openapi.components.schemas));
  }
}
for (const schema of protocol.oneOf.map((choice) => protocol.$defs[choice.$ref.split("/").at(-1)])) {
  document.getElementById("messages").append(element("h2", schema.properties.type.const), element("p", schema.description ?? ""), table(schema, protocol.$defs));
}
