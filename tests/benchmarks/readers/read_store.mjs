// Read arrays of a Zarr store over HTTP with zarrita.js.
// Arguments: URL of the store, then paths of arrays. Out: {path: {shape, dtype, data} or {error}}
import * as zarr from "zarrita";

const [url, ...paths] = process.argv.slice(2);
const root = zarr.root(new zarr.FetchStore(url));
const out = {};
const plain = (x) => (typeof x === "bigint" ? Number(x) : typeof x === "number" && !Number.isFinite(x) ? String(x) : x);
for (const path of paths) {
  try {
    const array = await zarr.open.v3(root.resolve(path), { kind: "array" });
    const read = await zarr.get(array);
    const scalar = array.shape.length === 0;
    const data = scalar ? [read?.data ? read.data[0] : read] : Array.from(read.data);
    out[path] = { shape: array.shape, dtype: array.dtype, data: data.map(plain) };
  } catch (error) {
    out[path] = { error: `${error.name}: ${error.message}` };
  }
}
console.log(JSON.stringify(out));
