// What the page has only where no server stands behind it: how far the model has come, a memory as a file, work without a network.

const about = document.querySelector("#about");
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });

// News of the worker: how much of the model has arrived, or what a person should know.
export function announce({ share, notice }) {
  if (share !== undefined) about.textContent = `The model is on its way, ${percent.format(share)}.`;
  if (notice) {
    const line = document.querySelector("#notice") ?? Object.assign(document.createElement("p"), { id: "notice" });
    line.setAttribute("role", "status");
    line.textContent = notice;
    document.querySelector("header").append(line);
  }
}

// The model is ready.
export function begin({ request, memory }) {
  if (memory) addFiles(request);
}

function addFiles(request) {
  const save = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: "Save as a file" });
  save.onclick = async () => {
    const address = URL.createObjectURL(new Blob([await request("save", {})]));
    Object.assign(document.createElement("a"), { href: address, download: "home.mem" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  };
  const label = Object.assign(document.createElement("label"), { className: "button small" });
  const open = Object.assign(document.createElement("input"), { type: "file", id: "open", accept: ".mem", className: "quiet" });
  open.onchange = async () => {
    const [file] = open.files;
    open.value = "";
    try {
      await request("open", { query: { file } });
      location.reload();
    } catch (error) {
      announce({ notice: error.message });
    }
  };
  label.append(open, "Open a file");
  const row = Object.assign(document.createElement("div"), { className: "row", id: "files" });
  row.append(save, label);
  document.querySelector("#known").append(row);
}

if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register(new URL("../sw.js", import.meta.url)).catch(() => null); // without one it needs the network
}
document.head.append(Object.assign(document.createElement("link"), { rel: "manifest", href: "manifest.webmanifest" }));
