// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "EdgeQKV",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [.library(name: "EdgeQKV", targets: ["EdgeQKV", "EdgeQKVCore"])],
    targets: [
        // The manifest, the tokenizer, sampling, measurements: Swift and Foundation, on any system.
        .target(name: "EdgeQKVCore"),
        // Core ML and the system's figures. Swift 5's rules, because `mach_task_self_` is a global variable.
        .target(name: "EdgeQKV", dependencies: ["EdgeQKVCore"], swiftSettings: [.swiftLanguageMode(.v5)]),
        .testTarget(name: "EdgeQKVCoreTests", dependencies: ["EdgeQKVCore"]),
    ]
)
