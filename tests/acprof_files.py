"""Small files in the forms of AC-Prof's published ones, with known numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CPU_HEADER = (
    "timestamp_ms,model_name,cpu_cores,gpu_mode,mem_cap_gb,batch_size,token_len,repeat_idx,warmup,"
    "latency_s,avg_power_w,peak_power_w,energy_j,cold_start_s,status,error"
)
GPU_HEADER = (
    "timestamp_ms,model_name,cpu_cores,gpu_mode,mem_cap_gb,batch_size,token_len,repeat_idx,warmup,"
    "latency_s,avg_power_w,peak_power_w,energy_j,energy_iters,energy_agg_iters,energy_window_j,"
    "cold_start_s,status,error"
)
CHRONOS_HEADER = (
    "model_name,cpu_cores,gpu_mode,gpu_name,mem_cap_gb,batch_size,context_length,prediction_length,"
    "repeat_idx,warmup,latency_s,throughput_samples_per_s,avg_power_w,peak_power_w,energy_j,status,"
    "error"
)
SIZES = (16, 32, 64, 128, 256, 512)


def latency_s(size: float, cores: float) -> float:
    """The truth behind the CPU rows: an overhead and work, both divided by the cores."""
    return (0.01 + 0.0005 * size) / cores**0.8


def write_cpu(path: Path, *, cores: tuple[int, ...] = (1, 2, 4), noise: float = 0.0) -> None:
    """The long form without a GPU: two warm-ups and three repeats a configuration, CRLF."""
    rng = np.random.default_rng(1)
    lines, clock = [CPU_HEADER], 1_771_572_153_000
    for core in cores:
        for memory in (2, 4):
            for size in SIZES:
                for repeat, warm in ((0, 1), (1, 1), (0, 0), (1, 0), (2, 0)):
                    value = latency_s(size, core) * (1 + noise * rng.normal())
                    clock += round(value * 1000) + 2
                    lines.append(
                        f"{clock},org/text-model,{core},off,{memory},1,{size},{repeat},{warm},"
                        f"{value!r},nan,nan,nan,6.5,ok,"
                    )
    _write(path, "\r\n".join(lines) + "\r\n")


def write_gpu(path: Path) -> None:
    """The long form with a GPU: rows that are statistics of ten requests of a batch of 16."""
    rng = np.random.default_rng(2)
    lines, clock = [GPU_HEADER], 1_771_589_485_767
    for core in (1, 2):
        for size in SIZES:
            for repeat in range(3):
                raw = [round(float(rng.uniform(90.0, 91.0)), 3) for _ in range(7)]
                mean, peak = sum(one - 90.0 for one in raw) / 7, max(raw) - 90.0
                joules = 0.03 * mean
                clock += 870
                lines.append(
                    f"{clock},org/text-model,{core},on,2,16,{size},{repeat},0,"
                    f"{0.01 + 1e-6 * size!r},{mean!r},{peak!r},{joules!r},7,10,{10 * joules!r},"
                    "7.0,ok,"
                )
    _write(path, "\r\n".join(lines))  # no newline at the end


def write_chronos(path: Path) -> None:
    """The long form without instants, where ``warmup`` counts the warm-ups made before."""
    lines = [CHRONOS_HEADER]
    for core, memory in ((1, 2), (2, 4)):
        for length in (512, 1024, 2048, 4096):
            for repeat in range(2):
                value = 0.1 + 1e-5 * length + 0.001 * repeat
                lines.append(
                    f"amazon/series,{core},GPU_on,NVIDIA GeForce RTX 3080,{memory},1,{length},1024,"
                    f"{repeat},2,{value!r},{1 / value!r},1.5,4.25,0.125,ok,"
                )
    _write(path, "\n".join(lines) + "\n")


def write_wide(path: Path) -> None:
    """The wide form: a column a container, one GPU among them."""
    lines = ["Pixels,GPU+CPU8+Mem16,CPU4+Mem8,CPU2+Mem4,CPU1+Mem2"]
    lines += [
        f"{pixels},{0.02 + pixels * 1e-6:.4f},"
        + ",".join(f"{pixels * 2e-5 / core + 0.01:.4f}" for core in (4, 2, 1))
        for pixels in (500, 2000, 4500, 8000, 12500, 18000)
    ]
    _write(path, "\n".join(lines))


def write_static(folder: Path) -> None:
    """Both kinds of static files; of ``vgg16`` there is nothing else."""
    _write(
        folder / "text" / "static_meta.csv",
        "model_name,model_download_url,gpu,model_weight_bytes,docker_image_bytes\n"
        "text-model,https://example.org/text, GeForce RTX 3080,91601385,4415918499",
    )
    _write(
        folder / "static_parameter.json",
        '{"fcn_resnet50": {"download volume": "156 MB"},\n'
        ' "vgg16": {"download volume": "528 MB"}}\n',
    )


def write_all(folder: Path) -> Path:
    """One of each."""
    write_cpu(folder / "text" / "cpu.csv")
    write_gpu(folder / "text" / "gpu.csv")
    write_chronos(folder / "series" / "gpu.csv")
    write_wide(folder / "fcn50.csv")
    write_static(folder)
    _write(folder / "LICENSE", "Apache-2.0")
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
