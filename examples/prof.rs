//! throwaway
use nets::Model;
use nets::resnet::{CifarResNet, Shortcut};
use tensor::optim::SgdConfig;
use tensor::{Graph, Spec};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let device = tensor::device::open(&a[1]).unwrap();
    let branches: usize = a[2].parse().unwrap();
    let batch: usize = a[3].parse().unwrap();
    let steps: usize = a[4].parse().unwrap();
    let arch = CifarResNet::new(a.get(5).map_or(32, |d| d.parse().unwrap()), Shortcut::B).unwrap();
    let (mut g, mut m) = (Graph::new(), Model::new());
    let image = g.input("image", Spec::f32([1, batch, 32, 32, 4]));
    let labels = g.input("labels", Spec::u32([batch]));
    let cfg = one::Config::paper(&arch, branches, 10);
    let t = one::training(&mut g, &mut m, &arch, (image, labels), &cfg, SgdConfig { nesterov: true }).unwrap();
    let start = std::time::Instant::now();
    let mut p = g.compile(&device).unwrap();
    println!("compile {:?} dispatches {} memory {:?}", start.elapsed(), p.kernels().len(), p.memory());
    m.initialize(&device, 0).unwrap();
    t.optimizer.initialize(&device, m.params()).unwrap();
    let mut rng = tensor::Rng::new(&[1]);
    let img: Vec<f32> = (0..batch * 4096).map(|i| if i % 4 == 3 { 0.0 } else { rng.normal() as f32 }).collect();
    p.feed_f32(image, &img).unwrap();
    p.feed_u32(labels, &(0..batch as u32).map(|i| i % 10).collect::<Vec<_>>()).unwrap();
    t.feed(&mut p, [0.01, 0.9, 1e-4], 1.0, batch).unwrap();
    for _ in 0..steps {
        let start = std::time::Instant::now();
        p.run().unwrap();
        device.synchronize().unwrap();
        println!("step {:?} {:.1} img/s", start.elapsed(), batch as f64 / start.elapsed().as_secs_f64());
    }
    for r in p.profile(3).unwrap() {
        println!("{:32} {:4} {:8.2} ms {:8.1} GF/s {:8.1} GB/s", r.kernel, r.count, r.time.as_secs_f64() * 1e3, r.gflops(), r.gigabytes());
    }
}
