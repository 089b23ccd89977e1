// Videos and cameras, frame by frame: every frame that is shown has its own boxes.

const FRAME_S = 1 / 25; // smallest step through a video, seconds
const LONGEST_SIDE = 1280; // of a frame that is sent, pixels
const JPEG_QUALITY = 0.92;

// A playing video or camera. `show(frame)` is awaited before the next frame is taken.
export class Film {
  constructor(video, show, changed) {
    Object.assign(this, { video, show, changed, playing: false, closed: false, live: false });
  }

  async openFile(file) {
    this.address = URL.createObjectURL(file);
    this.video.src = this.address;
    await happened(this.video, "loadeddata").catch(() => {
      throw new Error(`${file.name}: this browser can't play it; H.264 in MP4 and WebM work everywhere`);
    });
    await this.frame();
  }

  async openCamera() {
    this.stream = await navigator.mediaDevices.getUserMedia({ video: true });
    this.live = true;
    this.video.srcObject = this.stream;
    await happened(this.video, "loadeddata");
    await this.video.play();
    await this.toggle();
  }

  get time() {
    return this.video.currentTime;
  }

  get duration() {
    return this.live || !Number.isFinite(this.video.duration) ? 0 : this.video.duration;
  }

  async seek(time) {
    if (this.live) return;
    this.video.currentTime = Math.max(0, Math.min(time, this.duration));
    await happened(this.video, "seeked");
  }

  // Play, or stop playing. An error ends it.
  async toggle() {
    if (this.playing) {
      this.playing = false;
      return;
    }
    await this.loop; // the one before, whose last frame may still be on its way
    this.playing = true;
    this.changed();
    this.loop = this.play().finally(() => {
      this.playing = false;
      this.changed();
    });
    await this.loop;
  }

  async play() {
    const last = Math.max(0, this.duration - FRAME_S);
    if (!this.live && this.time >= last) await this.seek(0);
    while (this.playing) {
      const began = performance.now();
      await this.frame();
      if (this.live || !this.playing) continue;
      if (this.time >= last) return;
      const next = this.time + Math.max(FRAME_S, (performance.now() - began) / 1000); // keeps the video's own pace
      await this.seek(Math.min(next, last)); // however slow: the last frame is shown
    }
  }

  // Send the current frame and show it.
  async frame() {
    const { videoWidth, videoHeight } = this.video;
    const factor = Math.min(1, LONGEST_SIDE / Math.max(videoWidth, videoHeight));
    const still = new OffscreenCanvas(Math.round(videoWidth * factor), Math.round(videoHeight * factor));
    still.getContext("2d").drawImage(this.video, 0, 0, still.width, still.height);
    const image = await still.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
    if (!this.closed) await this.show(still, image, this.live ? "camera.jpg" : `frame-${this.time.toFixed(2)}s.jpg`);
    this.changed();
  }

  close() {
    this.closed = true;
    this.playing = false;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    if (this.address) URL.revokeObjectURL(this.address);
  }
}

function happened(target, event) {
  return new Promise((resolve, reject) => {
    target.addEventListener(event, resolve, { once: true });
    target.addEventListener("error", reject, { once: true });
  });
}
