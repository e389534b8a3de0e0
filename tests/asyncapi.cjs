// Read docs/asyncapi.yaml as the parser of the AsyncAPI initiative does, with every schema that it refers to.

const { Parser, fromFile } = require("@asyncapi/parser");

fromFile(new Parser(), process.argv[2])
  .parse()
  .then(({ document, diagnostics }) => {
    for (const { severity, path, message } of diagnostics) {
      console.log(`${["error", "warning", "note", "hint"][severity]}: ${path.join(".")}: ${message}`);
    }
    if (!document) process.exit(1);
    const counts = ["servers", "channels", "operations", "messages"].map((kind) => `${document[kind]().length} ${kind}`);
    console.log(`AsyncAPI ${document.version()}: ${counts.join(", ")}`);
  });
