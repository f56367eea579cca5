// Compiles every shader of a folder that `kernel-stats --wgsl FOLDER` wrote by Tint, the WGSL compiler of Chromium, and
// prints each error and warning. Usage: node check.mjs MODULES FOLDER [--allow-missing-features]

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, folder, option] = process.argv.slice(2);
const { create, globals } = await import(pathToFileURL(join(modules, 'webgpu/index.js')));
Object.assign(globalThis, globals);
// The adapter dies with the object that `create` returns.
globalThis.gpu = create(['backend=vulkan', 'enable-dawn-features=allow_unsafe_apis']);
const adapter = await globalThis.gpu.requestAdapter();
if (!adapter) {
  console.error('SKIPPED: Dawn finds no Vulkan adapter that it takes: SwiftShader, or llvmpipe of Mesa 25 or later');
  process.exit(77);
}
const wanted = ['shader-f16', 'subgroups'];
const features = wanted.filter((feature) => adapter.features.has(feature));
const device = await adapter.requestDevice({ requiredFeatures: features });

const rows = readFileSync(join(folder, 'index.tsv'), 'utf8').trimEnd().split('\n').map((line) => line.split('\t'));
const [problems, skipped, seconds] = [[], new Map(), performance.now()];
for (const [file, entry, kernel] of rows) {
  const code = readFileSync(join(folder, file), 'utf8');
  const needs = [/^enable f16;/m, /^enable subgroups;/m];
  const missing = wanted.filter((feature, i) => needs[i].test(code) && !features.includes(feature));
  if (missing.length > 0) {
    missing.forEach((feature) => skipped.set(feature, (skipped.get(feature) ?? 0) + 1));
    continue;
  }
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  await device.popErrorScope();
  for (const { type, lineNum, linePos, message } of messages.filter(({ type }) => type !== 'info')) {
    problems.push(`${kernel} (${entry}), ${file}:${lineNum}:${linePos}: ${type}: ${message}`);
  }
}
problems.slice(0, 20).forEach((problem) => console.error(problem));
if (problems.length > 20) console.error(`and ${problems.length - 20} more`);
const left = [...skipped].map(([feature, count]) => `, ${count} skipped that need ${feature}`).join('');
const { vendor, architecture, description } = adapter.info;
const name = description || `${vendor} ${architecture}`;
const time = ((performance.now() - seconds) / 1000).toFixed(1);
console.log(`Tint on ${name}: ${rows.length} shaders in ${time} s, ${problems.length} errors and warnings${left}`);
device.destroy();
process.exit(problems.length > 0 || (skipped.size > 0 && option !== '--allow-missing-features') ? 1 : 0);
