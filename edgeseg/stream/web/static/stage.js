// The picture: decodes a packet, colours the mask, draws. Opacity and classes change what is already here; nothing is asked for again.

const HEAD_BYTES = 4;

/** Frame and mask of one packet; see pictures.py for its layout. */
export async function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEAD_BYTES, length)));
  const jpegAt = HEAD_BYTES + length;
  const pngAt = jpegAt + header.jpeg_bytes;
  const image = (from, to, type, options) => createImageBitmap(new Blob([buffer.slice(from, to)], { type }), options);
  const [picture, mask] = await Promise.all([
    image(jpegAt, pngAt, "image/jpeg"),
    image(pngAt, pngAt + header.png_bytes, "image/png", { colorSpaceConversion: "none", premultiplyAlpha: "none" }),
  ]);
  return { header, picture, mask };
}

export class Stage {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.layer = document.createElement("canvas");
    this.layerContext = this.layer.getContext("2d", { willReadFrequently: true });
    this.opacity = 0.5;
    this.classes = [];
    this.hidden = new Set();
    this.regions = {};
    this.header = null;
  }

  /** Take over a decoded packet and draw it. */
  show({ header, picture, mask }) {
    this.header = header;
    this.picture?.close();
    this.picture = picture;
    const { width, height } = picture;
    for (const one of [this.canvas, this.layer]) {
      if (one.width !== width || one.height !== height) Object.assign(one, { width, height });
    }
    // Grey is the class index: one byte of four is all that is kept.
    this.layerContext.globalCompositeOperation = "copy";
    this.layerContext.drawImage(mask, 0, 0);
    mask.close();
    const grey = new Uint32Array(this.layerContext.getImageData(0, 0, width, height).data.buffer);
    this.indices = this.indices?.length === grey.length ? this.indices : new Uint8Array(grey.length);
    for (let i = 0; i < grey.length; i++) this.indices[i] = grey[i] & 255;
    this.colour();
  }

  /** Forget the picture: another source's must not stand for one that has none. */
  clear() {
    this.picture?.close();
    this.picture = this.indices = this.header = null;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Colour the classes that are on, then draw. */
  colour() {
    if (!this.indices) return;
    const table = new Uint32Array(256); // 0: transparent. Bytes are R, G, B, A in every browser there is (little endian).
    this.classes.forEach(({ name, rgb: [r, g, b] }, index) => {
      if (!this.hidden.has(name)) table[index] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    });
    const { width, height } = this.layer;
    this.pixels = this.pixels?.width === width && this.pixels.height === height ? this.pixels : new ImageData(width, height);
    const out = new Uint32Array(this.pixels.data.buffer);
    for (let i = 0; i < out.length; i++) out[i] = table[this.indices[i]];
    this.layerContext.putImageData(this.pixels, 0, 0);
    this.draw();
  }

  draw() {
    if (!this.picture) return;
    const { context } = this;
    context.globalAlpha = 1;
    context.drawImage(this.picture, 0, 0);
    context.globalAlpha = this.opacity;
    context.drawImage(this.layer, 0, 0);
    context.globalAlpha = 1;
    for (const region of this.regions[this.header.source] ?? []) this.outline(region);
  }

  outline({ name, points, pixels }) {
    const { context, canvas: { width, height } } = this;
    const [full_h, full_w] = this.header.size_hw;
    if (pixels) points = points.map(([x, y]) => [x / full_w, y / full_h]);
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x * width, y * height);
    context.closePath();
    for (const [style, line] of [["rgb(0 0 0 / 60%)", 4], ["#fff", 1.5]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: (line * width) / 960 });
      context.stroke();
    }
    const share = Object.entries(this.header.regions?.[name] ?? {}).sort((a, b) => b[1] - a[1])[0];
    const text = share ? `${name}: ${share[0]} ${Math.round(100 * share[1])} %` : name;
    const size = Math.max(11, width / 60);
    const [x, y] = [...points].sort((a, b) => a[1] - b[1] || a[0] - b[0])[0];
    const [left, top] = [x * width, Math.max(y * height, 2 * size)];
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.fillStyle = "rgb(10 14 20 / 75%)";
    context.fillRect(left, top - 1.7 * size, context.measureText(text).width + size, 1.6 * size);
    context.fillStyle = "#fff";
    context.fillText(text, left + size / 2, top - 0.55 * size);
  }

  /** The class under a pointer event; null beside the picture, or where no class is. */
  classAt(event) {
    if (!this.indices) return null;
    const { width, height } = this.canvas;
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height); // object-fit: contain
    const x = Math.floor((event.clientX - box.left - (box.width - width * scale) / 2) / scale);
    const y = Math.floor((event.clientY - box.top - (box.height - height * scale) / 2) / scale);
    if (x < 0 || y < 0 || x >= width || y >= height) return null;
    return this.classes[this.indices[y * width + x]] ?? null;
  }
}
